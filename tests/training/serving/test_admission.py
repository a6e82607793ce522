"""Who is refused, from metrics and a clock that the test decides."""

import json
import re
import threading
import urllib.request
from functools import partial
from http.client import IncompleteRead
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from ma_agiqa.serving.admission import Admission, unknown_class
from ma_agiqa.serving.backlog import BatchTime, fetch_metrics, read_backlog
from support.waiting import wait_until

STEPS = ("preprocess", "mplug_owl2", "maniqa_moe")
NOW_US = 1_700_000_000_000_000
METRICS = """
# HELP nv_inference_pending_request_count Instantaneous number of pending requests
nv_inference_pending_request_count{{model="preprocess",version="1"}} {here}
nv_inference_pending_request_count{{model="mplug_owl2",version="1"}} {owl}
nv_inference_pending_request_count{{model="maniqa_moe",version="1"}} {scorer}
nv_inference_pending_request_count{{model="maniqa_moe_old",version="1"}} 1000
nv_inference_count{{model="mplug_owl2",version="1"}} 1000
nv_inference_count{{model="maniqa_moe",version="1"}} {images}
nv_inference_exec_count{{model="maniqa_moe",version="1"}} {batches}
"""
LARGEST = 32


class Server:
    """Metrics and clock; the admission's own thread sleeps, as no one lets it read."""

    def __init__(self):
        self.now_s, self.error = 100.0, None
        self.here = self.owl = self.scorer = self.images = self.batches = 0
        self.admission = Admission(STEPS, LARGEST, 3.0, self.fetch, lambda: self.now_s)

    def fetch(self) -> str:
        if self.error:
            raise self.error
        names = ("here", "owl", "scorer", "images", "batches")
        return METRICS.format(**{name: getattr(self, name) for name in names})

    def read(self, after_s: float = 0.0, **values: int) -> None:
        self.now_s += after_s
        self.__dict__.update(values)
        self.admission.read()

    def work(self, batches: int, images: int, batch_s: float) -> None:
        """Compute batches of this many images each, while others wait."""
        self.read(owl=1)
        for _ in range(batches):
            for _ in range(7):
                self.read(batch_s / 8)
            self.read(batch_s / 8, images=self.images + images, batches=self.batches + 1)

    def refuse(self, left_s: float | None = None, images: int = 1, **more: str) -> str | None:
        deadline = {} if left_s is None else {"deadline_unix_us": NOW_US + round(left_s * 1e6)}
        return self.admission.refusal(json.dumps(deadline | more), images, NOW_US)

    def room(self, **request: object) -> int:
        """Count the requests that are taken before one is refused."""
        return next(number for number in range(10_000) if self.refuse(**request))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Admission, "_watch", lambda self: None)
    server = Server()
    yield server
    server.admission.close()


def test_the_queues_of_the_steps_count():
    text = METRICS.format(here=2, owl=3, scorer=4, images=9, batches=5)
    backlog = read_backlog(text, STEPS, 6.0)
    assert (backlog.pending, backlog.pending_here) == (7, 2)
    assert (backlog.images, backlog.batches, backlog.time_s) == (9, 5, 6.0)


@pytest.mark.parametrize(("fixed", "each"), [(0.012, 0.0042), (0.0, 0.018), (0.2, 0.0)])
def test_the_time_of_a_batch_is_learned_from_sizes_that_vary(fixed, each):
    time = BatchTime()
    assert time.seconds(100, LARGEST) == 0
    for images in (1, 4, 20, 32, 2, 30):
        time.learn(1, images, fixed + each * images)
    assert time.known
    assert time.seconds(64, LARGEST) == pytest.approx(2 * (fixed + each * 32), rel=0.05)
    for _ in range(200):  # it has become twice as slow
        time.learn(1, 32, 2 * (fixed + each * 32))
    assert time.seconds(64, LARGEST) == pytest.approx(4 * (fixed + each * 32), rel=0.05)


def test_from_small_batches_full_ones_are_not_thought_slow():
    time = BatchTime()
    for _ in range(100):
        time.learn(5, 5, 0.1)
    assert 0.02 <= time.seconds(LARGEST, LARGEST) <= 0.05


def test_slow_servers_take_what_fills_their_batches(server):
    server.work(batches=8, images=LARGEST, batch_s=4.0)
    server.read(owl=80)
    assert server.room() == 3 * LARGEST - 80
    refusal = server.refuse()
    assert re.search(r"96 requests are waiting, for about 1[12]\.\d s\. Try again", refusal)


def test_requests_of_several_images_fill_batches_sooner(server):
    for _ in range(200):
        assert server.refuse(images=6) is None
    server.admission.passed_on()
    server.work(batches=8, images=LARGEST, batch_s=4.0)
    server.read(owl=0)
    assert server.room(images=6) == pytest.approx(3 * LARGEST / 6, abs=1)


def test_fast_servers_take_what_they_can_do_in_time(server):
    server.work(batches=8, images=LARGEST, batch_s=0.1)
    server.read(owl=900)
    assert server.room() == pytest.approx(60, abs=20)
    assert "requests are waiting, for about 3.0 s" in server.refuse()


def test_bulk_requests_leave_room_for_others(server):
    server.work(batches=8, images=LARGEST, batch_s=0.1)
    server.read(owl=300)
    assert server.room(traffic_class="bulk") == pytest.approx(20, abs=10)
    assert server.room() > 500


@pytest.mark.parametrize(("given", "known"), [("bulk", True), ("Bulk", False), (True, False)])
def test_traffic_classes(given, known):
    assert (unknown_class(json.dumps({"traffic_class": given})) is None) == known
    assert unknown_class("") is None


def test_a_request_of_many_images_needs_more_time_than_a_small_one(server):
    for images in (1, LARGEST) * 4:
        server.work(batches=1, images=images, batch_s=0.1 * images)
    server.read(owl=1)
    assert server.refuse(left_s=2.0, images=LARGEST)
    assert server.refuse(left_s=2.0, images=1) is None


def test_what_was_passed_on_is_not_counted_twice(server):
    server.work(batches=8, images=LARGEST, batch_s=4.0)
    server.read(owl=0)
    assert server.room() == 96
    server.read(owl=0)  # all are still in the step: in no queue
    assert server.refuse()
    server.admission.passed_on()
    server.read(owl=90)  # six are computed already
    assert server.room() == 6


def test_where_decoding_is_slow_the_oldest_are_refused_until_the_rest_can_be_done(server):
    server.work(batches=8, images=LARGEST, batch_s=2.0)
    server.read(here=101, owl=0)
    assert [server.refuse() is None for _ in range(7)] == [False] * 5 + [True] * 2
    server.admission.passed_on()
    server.read(here=90)  # one came meanwhile
    assert server.refuse() is None


def test_where_decoding_is_slow_small_batches_do_not_promise_larger_ones(server):
    server.read(here=4)
    for _ in range(40):  # 20 images a second, in batches of 2
        assert [server.refuse(), server.refuse()] == [None, None]
        server.admission.passed_on()
        server.read(0.1, images=server.images + 2, batches=server.batches + 1)
    server.read(here=300)
    assert "299 requests are waiting, for about 14.9 s" in server.refuse()
    server.read(here=30)
    assert server.refuse(left_s=3.0) is None
    assert server.refuse(left_s=1.0)
    server.read(3.0, here=0)
    server.read(0.1, here=300)  # after an idle time, files may be others
    assert server.refuse() is None


def test_bad_files_are_no_backlog(server):
    server.work(batches=8, images=LARGEST, batch_s=1.0)
    for _ in range(500):
        assert server.refuse() is None
        server.admission.ended_here()
    assert server.refuse() is None


def test_a_deadline_that_the_queue_does_not_leave_time_for(server):
    server.work(batches=8, images=LARGEST, batch_s=1.0)
    server.read(owl=70)  # after a running batch of each later step, it will be in the third
    refusal = server.refuse(left_s=4.5)
    assert re.search(r"70 requests are waiting, for about 2\.\d s; 4\.5 s are left", refusal)
    assert server.refuse(left_s=1.2 * 5.5) is None
    assert server.refuse() is None


def test_the_later_steps_may_make_smaller_batches_than_they_could(server):
    server.admission = Admission(STEPS, LARGEST, 3.0, server.fetch, lambda: server.now_s, batch=8)
    server.work(batches=32, images=8, batch_s=0.25)
    server.read(owl=32)  # as many as a full batch: 1 s, behind two running ones of 0.25 s
    assert server.refuse(left_s=1.2 * 1.6)
    assert server.refuse(left_s=1.2 * 1.9) is None


def test_batches_that_take_longer_than_a_reading(server):
    server.read(owl=9)
    for number in range(1, 101):  # 8 images every second
        grown = {"images": number // 10 * 8, "batches": number // 10}
        server.read(0.1, owl=9, **grown)
    assert server.refuse(left_s=2.5)
    assert server.refuse(left_s=1.2 * 3.5) is None


def test_batches_whose_images_are_counted_later(server):
    server.read(owl=9)
    server.read(0.5, batches=1)
    assert server.refuse(left_s=0.01) is None  # nothing is known yet
    server.read(0.5, images=LARGEST)
    assert server.admission._now.seconds(LARGEST, LARGEST) == pytest.approx(1.0, rel=0.02)
    server.read(0.5, owl=0)
    server.read(0.5, batches=9)  # idle at times
    assert server.admission._now.batches == 1


def test_answer_tokens_are_not_scores(server):
    server.work(batches=8, images=LARGEST, batch_s=0.1)
    server.read(0.5, owl=1)  # mplug_owl2 computed tokens; the last step nothing
    server.read(owl=100)
    assert server.refuse(left_s=1.0) is None


def test_a_server_that_was_idle_shows_no_time(server):
    server.read(owl=0, images=100, batches=100)
    server.read(0.5, owl=500, images=101, batches=101)
    assert server.refuse(left_s=0.01) is None


def test_a_slow_time_is_forgotten(server):
    """After slow files, bursts with pauses are taken, and teach how fast the server is again."""
    server.work(batches=30, images=1, batch_s=3.0)
    server.read(0.1, owl=9)
    assert server.refuse(left_s=2.0)
    server.read(0.1, owl=0)
    for _ in range(3):
        server.read(3.0, owl=9)  # a burst, and nothing was learned since
        assert all(server.refuse(left_s=2.0) is None for _ in range(16))
        server.admission.passed_on()
        for _ in range(4):
            server.read(0.1, owl=1, images=server.images + 16, batches=server.batches + 1)
        server.read(0.1, owl=0)
    server.read(3.0, owl=40)
    assert server.refuse(left_s=2.0) is None


@pytest.mark.parametrize(
    "unreadable",
    [{"error": ConnectionRefusedError()}, {"error": IncompleteRead(b"")}, {"owl": "many"}],
)
def test_without_metrics_no_request_is_refused(server, unreadable):
    server.work(batches=8, images=LARGEST, batch_s=4.0)
    server.read(owl=500)
    assert server.refuse()
    server.read(**unreadable)
    assert server.refuse() is None


def test_metrics_are_read_without_a_proxy(tmp_path, monkeypatch):
    (tmp_path / "metrics").write_text("# none")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # of earlier requests
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with HTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.handle_request, daemon=True).start()
        assert fetch_metrics(f"http://127.0.0.1:{web.server_port}/metrics") == "# none"


def test_an_old_reading_refuses_no_request(server):
    server.work(batches=8, images=LARGEST, batch_s=4.0)
    server.read(owl=500)
    assert server.refuse()
    server.now_s += 2.0
    assert server.refuse() is None


def test_the_thread_ends_when_it_is_stopped_just_before_it_would_wait():
    reading, go_on = threading.Event(), threading.Event()

    def fetch() -> str:
        reading.set()
        go_on.wait(10)
        raise ConnectionRefusedError("no metrics")  # so that it has nothing to watch

    admission = Admission(STEPS, LARGEST, 3.0, fetch)
    assert reading.wait(10)
    closing = threading.Thread(target=admission.close, daemon=True)
    closing.start()
    wait_until(lambda: admission._closed, 10)
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()
