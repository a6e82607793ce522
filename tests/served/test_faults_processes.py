"""Processes that die, hang and end under load, with the real server and its supervisor."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from exporter.golden import golden_images
from ma_agiqa_client import Retry, Scorer
from support.constant_load import ConstantLoad
from support.servers import SHIPPED
from support.slow_line import SlowLine
from support.supervised import Supervised, kill
from support.waiting import wait_until

COUNT = 150
PATIENT = {"timeout_s": 150.0, "retry": Retry(budget_s=140, connect_budget_s=60)}

of_both = pytest.mark.parametrize(
    "supervised", ["stand-in", pytest.param("shipped", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def supervised(request, slow_repository, tmp_path):
    """A supervised server: of the stand-in, or of the shipped model where the test asks for it."""
    shipped = getattr(request, "param", None) == "shipped"
    running = Supervised(SHIPPED if shipped else slow_repository, tmp_path / "log")
    yield running
    running.stop(signal.SIGKILL)


class Job:
    """COUNT images through the SDK, on a thread."""

    def __init__(self, url: str):
        self.scores: list = []
        self._scorer = Scorer(url, **PATIENT)
        self._images = (golden_images() * COUNT)[:COUNT]
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        with self._scorer as scorer:
            for score in scorer.score_many(self._images, ordered=False, max_in_flight=8):
                self.scores.append(score)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.scores) >= count)

    def check(self) -> None:
        """Every image has exactly one score, and images that are the same the same one."""
        self._thread.join(180)
        assert sorted(score.index for score in self.scores) == list(range(COUNT))
        assert [str(score.error) for score in self.scores if score.error] == []
        kinds = len(golden_images())
        for kind in range(kinds):
            values = [score.mos for score in self.scores if score.index % kinds == kind]
            assert np.ptp(values) < 1e-3


@pytest.mark.faults
@pytest.mark.parametrize("supervised", ["shipped"], indirect=True)
@pytest.mark.parametrize("model", ["mplug_owl2", "maniqa_moe"])
def test_a_dead_stub_is_noticed_and_every_image_scored(supervised, model):
    lines, job = len(supervised.said), Job(supervised.url)
    job.wait_for(30)
    stub, *_ = (pid for pid in supervised.pids("stub") if pid in supervised.pids(f"/{model}/"))
    killed = kill(stub)
    noticed = supervised.wait_for(f"The process of model {model} ended", lines) - killed
    back = supervised.wait_for("Serving again", lines) - killed
    print(f"{model}: noticed after {noticed:.1f} s, served again after {back:.1f} s")
    assert noticed < 15
    job.check()


@of_both
def test_a_killed_server_comes_back_and_every_image_is_scored(supervised):
    lines, job, regions = len(supervised.said), Job(supervised.url), supervised.regions()
    assert regions
    job.wait_for(30)
    killed = kill(supervised.pids("tritonserver/bin")[0])
    back = supervised.wait_for("Serving again", lines) - killed
    print(f"tritonserver: served again after {back:.1f} s")
    job.check()
    assert not any(region.exists() for region in regions)


@pytest.mark.faults
def test_a_stub_that_stops_is_noticed_by_the_canary(supervised):
    """Its process is there, and Triton says that it is ready."""
    lines = len(supervised.said)
    (stub,) = [pid for pid in supervised.pids("stub") if pid in supervised.pids("/mplug_owl2/")]
    os.kill(stub, signal.SIGSTOP)
    stopped = time.monotonic()
    noticed = supervised.wait_for("no longer scores: ma_agiqa fails", lines) - stopped
    back = supervised.wait_for("Serving again", lines) - stopped
    print(f"stopped: noticed after {noticed:.1f} s, served again after {back:.1f} s")
    assert noticed < 15
    with Scorer(supervised.url) as scorer:
        assert scorer.score(golden_images()[0]).error is None


def test_half_open_and_slow_connections_do_no_harm(supervised):
    host, port = supervised.url.split(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    with Scorer(supervised.url) as scorer:
        expected = scorer.score(golden_images()[0]).mos
        sockets = [socket.create_connection((host, int(port))) for _ in range(300)]
        try:
            for number, half_open in enumerate(sockets):
                half_open.sendall(preface[: number % (len(preface) + 1)])
            with (
                SlowLine(supervised.url) as slow,
                Scorer(slow.url, **PATIENT) as patient,
                ThreadPoolExecutor(1) as pool,
            ):
                answer = pool.submit(patient.score, golden_images()[0])
                # One byte at a time, for as long as others are served, and then half of it.
                for count in (*[1] * 10, len(golden_images()[0]) // 2):
                    slow.let(count)
                    mos = scorer.score(golden_images()[0]).mos
                    assert mos == pytest.approx(expected, abs=1e-3)
                assert not answer.done()
                slow.let(1 << 30)
                assert answer.result(60).mos == pytest.approx(expected, abs=1e-3)
        finally:
            for half_open in sockets:
                half_open.close()
        assert scorer.score(golden_images()[0]).mos == pytest.approx(expected, abs=1e-3)


@of_both
def test_sigterm_under_load_loses_no_accepted_request(supervised):
    regions, children = supervised.regions(), supervised.pids("")
    refused = ("has no available versions", "failed to connect", "Connection refused", "not ready")
    refused += ("StatusCode.CANCELLED CANCELLED",)  # by the end of the server itself
    with ConstantLoad(supervised.url, threads=8) as load:
        load.wait_for(40)
        assert supervised.stop() == 0
        load.wait_for(8)
    draining_s = min(sent_s for sent_s, said in load.failures if refused[0] in said)
    lost = [
        said
        for sent_s, said in load.failures
        if sent_s < draining_s or not any(words in said for words in refused)
    ]
    print(f"{len(load.scores)} answered, {len(load.errors)} refused, {len(lost)} lost")
    assert lost == []
    assert load.errors
    assert not any(region.exists() for region in regions)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
