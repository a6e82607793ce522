"""A served ensemble that is sent more than it can do.

First its capacity: always the same number of requests in flight. Then requests come at a multiple
of that rate, whatever becomes of the earlier ones, each with a deadline, as from callers who know
nothing of one another. Then they stop, and single requests show when the server is as fast as
before.

Hundreds of requests a second keep their sender busy as well. So that this is not measured, the
embedded server gets all usable cores but one, and the sender that one.
"""

import os
import statistics
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from embedded.server import EmbeddedTriton
from load.generator import Answer, Target, measure, raise_failure, send_at_rate
from load.images import read_images
from load.report import Limit, broken_limits
from load.server import (
    connect,
    images_option,
    memory_samples,
    positive,
    report,
    repository_option,
    url_option,
)

_IMAGES_IN_FLIGHT = 32  # while the capacity is measured
_PROBES = 10
_PROBE_INTERVAL_S = 0.25
_RECOVERED = 2.0  # times the median latency before
_RECOVERY_LIMIT_S = 60.0


@dataclass(frozen=True)
class Overload:
    """What was measured.

    Attributes:
        capacity: images/s of the server under a constant load: the mean of before and after.
        answers: the outcome of each request of the overload.
        recovery_s: until the latency of single requests was as before; infinite if it never was.
        memory_mib: memory of the server, once a second; empty for a server that ran already.
    """

    capacity: float
    answers: list[Answer]
    recovery_s: float
    memory_mib: list[float]


def measure_overload(
    target: Target,
    files: Sequence[bytes],
    times: float,
    seconds: float,
    deadline_s: float,
    server: EmbeddedTriton | None = None,
) -> Overload:
    """Overload a server.

    Args:
        target: the server.
        files: encoded images, sent in turn.
        times: multiple of the capacity that is sent.
        seconds: how long the capacity is measured, and how long the overload lasts.
        deadline_s: deadline of each request.
        server: the server, if its memory can be read.

    Raises:
        LoadError: it does not score an image before or after the overload.
    """
    in_flight = max(2, _IMAGES_IN_FLIGHT // target.images)
    measure(target, files, in_flight, seconds / 5)  # the first requests are slower
    usual_s = statistics.median(_one_s(target, files) for _ in range(_PROBES))
    report("measuring the capacity")
    before = measure(target, files, in_flight, seconds).images_per_s
    report(f"sending {times:g} times {before:.1f} images/s")
    with memory_samples(server, interval_s=1.0) as memory:
        answers = send_at_rate(target, files, times * before, seconds, deadline_s)
        report("waiting for the latency from before")
        last_s = max(answer.sent_s for answer in answers)
        recovery_s = _recovery_s(target, files, _RECOVERED * usual_s, last_s)
    report("measuring the capacity again")
    after = measure(target, files, in_flight, seconds).images_per_s
    capacity = (before + after) / 2  # other work on the machine changes it
    return Overload(capacity, answers, recovery_s, [sum(sizes.values()) for sizes in memory])


def _one_s(target: Target, files: Sequence[bytes]) -> float:
    answer = target.infer(target.requests(files)[0])
    raise_failure(answer)
    return answer.seconds


def _recovery_s(target: Target, files: Sequence[bytes], wanted_s: float, start: float) -> float:
    """Seconds from a time, by `perf_counter`, until three requests in a row are fast."""
    fast: list[float] = []
    while len(fast) < 3:
        sent_s = time.perf_counter() - start
        if sent_s > _RECOVERY_LIMIT_S:
            return float("inf")
        fast = [*fast, sent_s] if _one_s(target, files) <= wanted_s else []
        time.sleep(_PROBE_INTERVAL_S)
    return fast[0]


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Keep this thread, and the threads and processes that it starts, on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@click.command()
@url_option
@repository_option
@images_option
@positive("--times", 4.0, "Multiple of the measured capacity that is sent.")
@positive("--seconds", 15.0, "How long the capacity is measured, and how long the overload lasts.")
@positive("--deadline", 5.0, "Deadline of each request in seconds.")
@click.option(
    "--images-per-request",
    type=click.IntRange(1, 32),
    default=1,
    show_default=True,
    help="Generation servers send the images of a prompt together.",
)
@click.option(
    "--share-cores",
    is_flag=True,
    help="Send from the cores of the embedded server; else it leaves one of them to the sender.",
)
@click.option("--min-goodput", type=float, help="Fail at a smaller share of the capacity.")
@click.option("--max-refused-p95-ms", type=float, help="Fail if refusals take longer.")
@click.option("--max-recovery-s", type=float, help="Fail if the recovery takes longer.")
def overload(
    url: str | None,
    repository: Path,
    paths: tuple[Path, ...],
    times: float,
    seconds: float,
    deadline: float,
    images_per_request: int,
    share_cores: bool,
    min_goodput: float | None,
    max_refused_p95_ms: float | None,
    max_recovery_s: float | None,
) -> None:
    """Send a server a multiple of what it can do; report what it scores and what it refuses.

    The exit status is 1 past a limit.
    """
    files = [image.data for image in read_images(paths)]
    with ExitStack() as stack:
        cores = sorted(os.sched_getaffinity(0))
        own = cores if url or share_cores else cores[-1:]
        with on_cores(cores[: -len(own)] or cores):  # which a server that is started inherits
            server = connect(url, repository, images_per_request)
            target, triton = stack.enter_context(server)
        stack.enter_context(on_cores(own))
        measured = measure_overload(target, files, times, seconds, deadline, triton)

    latencies_ms: dict[str, list[float]] = {}
    for answer in measured.answers:
        outcome = answer.status or ("scored" if answer.seconds <= deadline else "late")
        latencies_ms.setdefault(outcome, []).append(answer.seconds * 1000)
    p95_ms = {outcome: float(np.percentile(found, 95)) for outcome, found in latencies_ms.items()}
    times_s = [answer.sent_s for answer in measured.answers]
    sent_s = max(seconds, max(times_s) - min(times_s))  # the sender may be slower than it was asked
    sent, capacity = images_per_request * len(times_s) / sent_s, measured.capacity
    in_time = images_per_request * len(latencies_ms.get("scored", ()))
    goodput = in_time / max(seconds, _last_score_s(measured.answers))
    click.echo(f"capacity  {capacity:.1f} images/s")
    click.echo(f"sent      {sent:.1f} images/s for {sent_s:.1f} s")
    click.echo(
        f"goodput   {goodput:.1f} images/s scored in time: {goodput / capacity:.0%} of the capacity"
    )
    for outcome, found in sorted(latencies_ms.items()):
        click.echo(f"requests  {len(found)} {outcome}, 95 % within {p95_ms[outcome]:.0f} ms")
    if sizes := measured.memory_mib:
        click.echo(f"memory    {sizes[0]:.0f} MiB before, at most {max(sizes):.0f} MiB")
    click.echo(f"recovery  {measured.recovery_s:.1f} s until as fast as before")
    limits = (
        Limit("goodput as a share of the capacity", goodput / capacity, min_goodput, False),
        Limit("p95 of refusals, ms", p95_ms.get("UNAVAILABLE", 0.0), max_refused_p95_ms),
        Limit("recovery, s", measured.recovery_s, max_recovery_s),
    )
    broken = broken_limits(limits)
    for sentence in broken:
        click.echo(f"FAILED    {sentence}")
    sys.exit(bool(broken))


def _last_score_s(answers: Sequence[Answer]) -> float:
    """Seconds from the first request to the last score, which comes after the last request."""
    first_s = min(answer.sent_s for answer in answers)
    return max((a.end_s - first_s for a in answers if a.status is None), default=0.0)
