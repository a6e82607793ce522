"""Who is refused, from metrics and a clock that the test decides."""

import json
import re

import pytest

from ma_agiqa.serving.admission import Admission, read_backlog

STEPS = ("preprocess", "mplug_owl2", "maniqa_moe")
NOW_US = 1_700_000_000_000_000
METRICS = """
# HELP nv_inference_pending_request_count Instantaneous number of pending requests
nv_inference_pending_request_count{{model="preprocess",version="1"}} {here}
nv_inference_pending_request_count{{model="mplug_owl2",version="1"}} {owl}
nv_inference_pending_request_count{{model="maniqa_moe",version="1"}} {scorer}
nv_inference_pending_request_count{{model="maniqa_moe_old",version="1"}} 1000
nv_inference_request_success{{model="mplug_owl2",version="1"}} {done}
nv_inference_request_success{{model="maniqa_moe",version="1"}} 1000
"""


class Server:
    """Metrics and clock; the admission's own thread sleeps, as no one lets it read."""

    def __init__(self):
        self.now_s, self.reads = 100.0, True
        self.here = self.owl = self.scorer = self.done = 0
        self.admission = Admission(STEPS, 10, 1.0, self.fetch, lambda: self.now_s)

    def fetch(self) -> str:
        if not self.reads:
            raise ConnectionRefusedError("no metrics")
        return METRICS.format(here=self.here, owl=self.owl, scorer=self.scorer, done=self.done)

    def read(self, after_s: float = 0.0, **values: int) -> None:
        self.now_s += after_s
        self.__dict__.update(values)
        self.admission.read()

    def refuse(self, left_s: float | None = None, images: int = 1) -> str | None:
        deadline = {} if left_s is None else {"deadline_unix_us": NOW_US + round(left_s * 1e6)}
        return self.admission.refusal(json.dumps(deadline), images, NOW_US)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Admission, "_watch", lambda self: None)
    server = Server()
    yield server
    server.admission.close()


def test_the_queues_of_the_steps_count():
    backlog = read_backlog(METRICS.format(here=2, owl=3, scorer=4, done=5), STEPS, 6.0)
    assert (backlog.pending, backlog.pending_here) == (7, 2)
    assert (backlog.done, backlog.time_s) == (5, 6.0)


def learn(server: Server, rate: int) -> None:
    """Have the server show how many requests a second it does."""
    server.read(owl=1, done=100)
    server.read(0.5, owl=1, done=100 + rate // 2)


def test_slow_servers_take_what_fills_their_batches(server):
    learn(server, 4)
    server.read(owl=4, scorer=3)
    assert [server.refuse() is None for _ in range(5)] == [True, True, True, False, False]
    assert "10 requests are waiting, for about 2.5 s. Try again later" in server.refuse()


def test_requests_of_several_images_fill_batches_sooner(server):
    for _ in range(200):
        assert server.refuse(images=6) is None
    server.admission.passed_on()
    server.read(owl=1, done=100)
    server.read(0.9, owl=1, done=101)
    server.read(owl=0)
    assert [server.refuse(images=6) is None for _ in range(4)] == [True, True, False, False]


def test_fast_servers_take_what_they_can_do_in_time(server):
    learn(server, 40)
    server.read(owl=40)
    assert server.refuse() is None
    assert "41 requests are waiting, for about 1.0 s" in server.refuse()


def test_what_was_passed_on_is_not_counted_twice(server):
    learn(server, 4)
    server.read(owl=0)
    assert all(server.refuse() is None for _ in range(10))
    assert server.refuse()
    server.read(owl=0)  # all ten are still in the step: in no queue
    assert server.refuse()
    server.admission.passed_on()
    server.read(owl=6)  # four are computed already
    assert [server.refuse() is None for _ in range(5)] == [True] * 4 + [False]


def test_where_decoding_is_slow_the_oldest_are_refused_until_the_rest_can_be_done(server):
    server.read(here=50, done=100)
    server.read(0.5, here=50, done=120)  # 40 a second, and nothing waits behind
    server.read(here=46)
    assert [server.refuse() is None for _ in range(7)] == [False] * 5 + [True] * 2
    server.admission.passed_on()
    server.read(here=39)  # one came meanwhile
    assert server.refuse() is None


def test_bad_files_are_no_backlog(server):
    learn(server, rate=20)
    for _ in range(500):
        assert server.refuse() is None
        server.admission.ended_here()
    assert server.refuse() is None


def test_a_deadline_that_the_queue_does_not_leave_time_for(server):
    learn(server, 4)
    server.read(owl=5)
    assert "5 requests are waiting, for about 1.2 s; 1.0 s are left" in server.refuse(left_s=1.0)
    assert server.refuse(left_s=1.3) is None
    assert server.refuse() is None


def test_batches_that_take_longer_than_a_reading(server):
    learn(server, 4)
    for _ in range(400):  # 8 requests every second
        for number in range(10):
            server.read(0.1, owl=9, done=server.done + (8 if number == 0 else 0))
    refusal = server.refuse(left_s=1.0)
    assert re.search(r"9 requests are waiting, for about 1\.[12] s; 1\.0 s", refusal)


def test_a_server_that_was_idle_shows_no_rate(server):
    server.read(owl=0, done=100)
    server.read(0.5, owl=500, done=101)
    assert server.refuse(left_s=0.01) is None


@pytest.mark.parametrize("unreadable", [{"reads": False}, {"owl": "many"}])
def test_without_metrics_nobody_is_refused(server, unreadable):
    learn(server, 4)
    server.read(owl=50)
    assert server.refuse()
    server.read(**unreadable)
    assert server.refuse() is None


def test_an_old_reading_refuses_nobody(server):
    learn(server, 4)
    server.read(owl=50)
    assert server.refuse()
    server.now_s += 2.0
    assert server.refuse() is None
