"""A served ensemble that is sent more than it can do.

First its capacity: always so many requests on their way. Then requests come at a multiple of that
rate, whatever becomes of the earlier ones, each with a deadline, as from callers who know nothing
of one another. Then they stop, and single requests show when the server is its old self.

Hundreds of requests a second keep their sender busy as well. So that this is not measured, the
embedded server gets all usable cores but one, and the sender that one.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ma_agiqa.benchmark._embedded_server import EmbeddedServer, embedded_server, find_serve_script
from ma_agiqa.benchmark._requests import Answer, ServedEnsemble

__all__ = ["Overload", "measure_overload", "on_cores"]

_PROBES = 10
_PROBE_INTERVAL_S = 0.25
_RECOVERED = 2.0  # times the median latency before
_RECOVERY_LIMIT_S = 60.0


@dataclass(frozen=True)
class Overload:
    """What was measured.

    Attributes:
        capacity_images_per_s: of the server when so many as it likes are on their way: the mean
            of before and after the overload.
        sent_images_per_s: during the overload.
        seconds: that it lasted.
        goodput_images_per_s: images scored before their deadline.
        outcomes: number of requests by outcome: `scored`, `late` (scored after the deadline), or
            the gRPC status.
        refused_p95_ms: 95 % of the requests that got UNAVAILABLE had it after so long; None if
            none got it.
        scored_p95_ms: the same of those that were scored in time.
        memory_bytes: of the server before, and the most during the overload; None for a server
            that ran already.
        recovery_s: until the latency of single requests was that from before.
    """

    capacity_images_per_s: float
    sent_images_per_s: float
    seconds: float
    goodput_images_per_s: float
    outcomes: dict[str, int]
    refused_p95_ms: float | None
    scored_p95_ms: float | None
    memory_bytes: tuple[int, int] | None
    recovery_s: float | None

    @property
    def goodput_share(self) -> float:
        """Of the capacity."""
        return self.goodput_images_per_s / self.capacity_images_per_s


def measure_overload(
    repository: Path,
    files: Sequence[bytes],
    url: str | None = None,
    times: float = 4.0,
    seconds: float = 10.0,
    deadline_s: float = 5.0,
    concurrency: int = 32,
    images: int = 1,
    share_cores: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Overload:
    """Overload a server.

    Args:
        repository: what the embedded server serves, if there is no `url`.
        files: encoded images, sent in turn.
        url: HOST:PORT of a running server.
        times: how much more than the capacity is sent.
        seconds: how long.
        deadline_s: of each request.
        concurrency: images on their way while the capacity is measured.
        images: of a request.
        share_cores: let the embedded server and the sender of requests use the same cores.
        say: is told about progress.

    Raises:
        ConfigError: the server cannot be used, or does not start.
        DataError: it does not score an image before the overload.
    """
    with ExitStack() as stack:
        server = None
        if url is None:
            cores = sorted(os.sched_getaffinity(0))
            own = cores[-1:] if cores[1:] and not share_cores else cores
            others = [core for core in cores if core not in own] or cores
            say(f"starting the embedded server on cores {others}, and sending from {own}")
            with on_cores(others):  # which it inherits
                server = stack.enter_context(embedded_server(repository, find_serve_script()))
            stack.enter_context(on_cores(own))
        ensemble = ServedEnsemble(server.url if server else str(url), images)
        requests = max(2, concurrency // images)
        stack.callback(ensemble.close)
        ensemble.load(files, requests, seconds / 5)  # the first requests are slower
        usual_ms = _single_ms(ensemble, files)
        say("measuring the capacity")
        capacity = ensemble.load(files, requests, seconds).images_per_s
        say(f"sending {times:g} times {capacity:.1f} images/s")
        with _MemoryWatch(server) as memory:
            answers = ensemble.send(files, times * capacity, seconds, deadline_s)
            say("waiting for the latency from before")
            recovery_s = _recovery_s(ensemble, files, usual_ms)
        say("measuring the capacity again")
        after = ensemble.load(files, requests, seconds).images_per_s
        capacity = (capacity + after) / 2  # whatever else the machine does changes
    return _summary(answers, images, capacity, seconds, deadline_s, memory, recovery_s)


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Keep this thread, and the threads and processes that it starts, on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _summary(
    answers: list[Answer],
    images: int,
    capacity: float,
    seconds: float,
    deadline_s: float,
    memory: "_MemoryWatch",
    recovery_s: float | None,
) -> Overload:
    outcomes: dict[str, int] = {}
    latencies: dict[str, list[float]] = {}
    for answer in answers:
        outcome = answer.status or ("scored" if answer.seconds <= deadline_s else "late")
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        latencies.setdefault(outcome, []).append(answer.seconds * 1000)
    return Overload(
        capacity_images_per_s=capacity,
        sent_images_per_s=images * len(answers) / seconds,
        seconds=seconds,
        goodput_images_per_s=images * outcomes.get("scored", 0) / _duration_s(answers, seconds),
        outcomes=outcomes,
        refused_p95_ms=_p95(latencies.get("UNAVAILABLE")),
        scored_p95_ms=_p95(latencies.get("scored")),
        memory_bytes=(memory.before, memory.most) if memory.most else None,
        recovery_s=recovery_s,
    )


def _duration_s(answers: list[Answer], seconds: float) -> float:
    """From the first request to the last score, which comes after the last request."""
    scored = [answer.end_s for answer in answers if answer.status is None]
    return max(seconds, max(scored, default=0.0))


def _p95(values: list[float] | None) -> float | None:
    return float(np.percentile(values, 95)) if values else None


def _single_ms(ensemble: ServedEnsemble, files: Sequence[bytes]) -> float:
    return statistics.median(ensemble.one(file) * 1000 for file in files[:_PROBES])


def _recovery_s(ensemble: ServedEnsemble, files: Sequence[bytes], usual_ms: float) -> float | None:
    """Seconds until three requests in a row are as fast as before; None: they never were."""
    start, good_since, good = time.perf_counter(), 0.0, 0
    while time.perf_counter() - start < _RECOVERY_LIMIT_S:
        sent = time.perf_counter()
        if ensemble.one(files[0]) * 1000 <= _RECOVERED * usual_ms:
            good_since = good_since if good else sent
            good += 1
        else:
            good = 0
        if good == 3:
            return good_since - start
        time.sleep(_PROBE_INTERVAL_S)
    return None


class _MemoryWatch:
    """The most memory of a server while the context is open."""

    def __init__(self, server: EmbeddedServer | None) -> None:
        self._server = server
        self.before = self.most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_MemoryWatch":
        if self._server:
            self.before = self.most = self._server.memory_bytes()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._server:
            self._thread.join()

    def _watch(self) -> None:
        while self._server and not self._end.wait(1.0):
            self.most = max(self.most, self._server.memory_bytes())
