"""Checks of a real server whose model can be made to hang, and the supervisor that makes them."""

import time
import urllib.request
from pathlib import Path

import pytest

from embedded import supervisor
from embedded.errors import ServerFailedError
from embedded.health import STATISTICS_TIMEOUT_S, Health, NoAnswerError, NotScoringError
from embedded.http import BusyError
from embedded.server import EmbeddedTriton
from embedded.supervisor import Supervisor
from support.supervised import kill, processes_of
from support.waiting import wait_until

HANG = """while __import__("os").path.exists({file!r}):
            time.sleep(0.05)
        return [self"""


@pytest.fixture
def hang(change, tmp_path) -> Path:
    """While this file exists, the scorer does not answer."""
    file = tmp_path / "hang"
    change("maniqa_moe", "return [self", HANG.format(file=str(file)))
    return file


@pytest.fixture
def server(repository, hang, tmp_path):
    with EmbeddedTriton(repository, free_ports=True, log_file=tmp_path / "log") as running:
        yield running


def check(health: Health, timeout_s: float = 20.0) -> list[float]:
    return health.check(timeout_s, deadline_s=timeout_s)


def test_slow_is_not_dead_and_hanging_is(server, hang, monkeypatch):
    assert len(check(Health(server.http))) == 2  # of the active version, and by its number
    hang.touch()
    time.sleep(1)  # Triton counts the image above a moment after its answer
    with pytest.raises(NoAnswerError, match="ma_agiqa gives no score: no answer within"):
        check(Health(server.http), 2.0)
    monkeypatch.setattr(supervisor, "CHECK_TIMEOUT_S", 2.0)
    monkeypatch.setattr(supervisor, "SILENCE_ALLOWED_S", 3.0)
    with pytest.raises(ServerFailedError, match=r"no longer scores: no image got a score for \d+"):
        Supervisor(server, 0, check_interval_s=0.1, report=print).run()
    hang.unlink()
    assert len(check(Health(server.http))) == 2  # of the active version, and by its number


def test_what_was_scored_since_the_last_check_counts(server, hang):
    waiting = Health(server.http)
    check(waiting)
    check(Health(server.http))  # another image gets its score
    hang.touch()
    assert check(waiting, 2.0) == []
    with pytest.raises(NoAnswerError):
        check(waiting, 2.0)
    hang.unlink()


class HalfHanging:
    """A server with two ensembles, the second of which gives no score."""

    scored = 0

    def get(self, path: str, timeout_s: float) -> dict:
        counts = {"ma_agiqa": self.scored, "ma_agiqa_v2": 0}
        stats = {name: {"success": {"count": count}} for name, count in counts.items()}
        return {"model_stats": [{"name": n, "inference_stats": s} for n, s in stats.items()]}

    def score_test_image(self, ensemble: str, timeout_s: float, deadline_s: float) -> list[float]:
        if ensemble == "ma_agiqa_v2":
            raise BusyError("no answer within 1 s")
        self.scored += 1
        return [3.0]


def test_test_images_are_not_those_of_others():
    server = HalfHanging()
    health = Health(server)
    for _ in range(3):
        with pytest.raises(NoAnswerError, match="ma_agiqa_v2 gives no score"):
            check(health, STATISTICS_TIMEOUT_S)
    server.scored += 1
    assert check(health, STATISTICS_TIMEOUT_S) == []


def test_a_failure_is_reported_at_once(server, repository):
    health = Health(server.http)
    kill(processes_of(repository, "triton_python_backend_stub")[0])
    with pytest.raises(NotScoringError, match=r"ma_agiqa\w* fails: .*Stub .* is not healthy"):
        check_until_it_fails(health)
    wait_until(lambda: count_failures(server) > 0)  # what an alert counts
    server.stop(failed=True)


def count_failures(server: EmbeddedTriton) -> int:
    with urllib.request.urlopen(server.metrics_url) as answer:
        metrics = answer.read().decode().splitlines()
    failures = [line for line in metrics if line.startswith("nv_inference_request_failure")]
    return sum(int(line.split()[-1]) for line in failures if 'reason="BACKEND"' in line)


def check_until_it_fails(health: Health) -> None:
    while True:
        check(health)
