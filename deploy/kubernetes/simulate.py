"""How replicas follow a day's load, and how long images wait: a simulation from measured times.

    python deploy/kubernetes/simulate.py times --url http://localhost:8000
    python deploy/kubernetes/simulate.py day --fixed-ms 8.4 --image-ms 6.1 --peak 800

`times` reads the step times of a server that has had load from Triton's statistics and fits
"fixed + images x image_ms" to them. `day` simulates 24 hours: images arrive at random around a
daily curve, gRPC's round robin spreads them, each replica takes what waits as one batch (at most
32), and the autoscaler of components/hpa and components/keda decides every 15 s on the numbers of
the last scrape.

What it leaves out: the network, retries (a retry adds load), images of very different sizes, and
neighbours on the machine. Rates and times scale together: a server that is 10 times as fast shows
the same replicas at 10 times the load, with waits a tenth as long while nothing queues for scaling.
"""

import json
import math
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import click
import numpy as np

__all__ = ["Autoscaler", "Day", "ServiceTime", "Trace", "arrivals", "fit_times", "simulate"]

DAY_S = 86_400
MAX_BATCH = 32
STEPS = ("preprocess", "mplug_owl2", "maniqa_moe")


@dataclass(frozen=True)
class ServiceTime:
    """Seconds that a batch keeps a replica busy: `fixed_s + images * image_s`."""

    fixed_s: float
    image_s: float

    def seconds(self, images: int) -> float:
        """Time for one batch."""
        return self.fixed_s + images * self.image_s

    @property
    def capacity(self) -> float:
        """Images a second of one replica, in full batches."""
        return MAX_BATCH / self.seconds(MAX_BATCH)


@dataclass(frozen=True)
class Autoscaler:
    """The rules of Kubernetes' autoscaler, with the settings of the manifests.

    Attributes:
        target: waiting images for each replica; None keeps `least` replicas.
        least, most: bounds of the number of replicas.
        start_s: from the decision to the first image, which includes loading the weights.
        stop_s: how long a replica goes on with what it has, and is paid for, after it must leave.
        calm_s: a replica leaves only if none was needed in the last so many seconds.
        poll_s: how often is decided; the numbers are as old as that.
    """

    target: float | None
    least: int
    most: int
    start_s: float = 180.0
    stop_s: float = 60.0
    calm_s: float = 600.0
    poll_s: float = 15.0


@dataclass(frozen=True)
class Day:
    """Images a second over the day: a curve from `night` to `peak`, with a burst at its height.

    Attributes:
        night, peak: the lowest rate (at 4 h) and the highest (at 16 h).
        burst: for ten minutes at 16 h the rate is so many times the curve's.
    """

    night: float
    peak: float
    burst: float = 1.0

    def rate(self, t: np.ndarray) -> np.ndarray:
        """Rate at so many seconds after midnight."""
        curve = (1 - np.cos(2 * np.pi * (t / DAY_S - 4 / 24))) / 2
        rate = self.night + (self.peak - self.night) * curve
        return np.where((t >= 16 * 3600) & (t < 16 * 3600 + 600), rate * self.burst, rate)


@dataclass
class Trace:
    """What happened.

    Attributes:
        arrived_s: when each image arrived, sorted; float64 (N,).
        seconds: from arrival to score; float64 (N,).
        replicas: time and number of replicas that were up, at every decision; (M, 2).
        replica_hours: sum over the replicas of the hours that are paid for.
    """

    arrived_s: np.ndarray
    seconds: np.ndarray
    replicas: np.ndarray
    replica_hours: float


class _Replica:
    def __init__(self) -> None:
        self.waiting: deque[int] = deque()
        self.busy = False


def arrivals(day: Day, rng: np.random.Generator, until_s: float = DAY_S) -> np.ndarray:
    """Draw arrival times: a Poisson process whose rate follows the day, by thinning."""
    highest = day.peak * max(day.burst, 1.0)
    count = rng.poisson(highest * until_s)
    times = np.sort(rng.uniform(0, until_s, count))
    return times[rng.uniform(0, highest, count) < day.rate(times)]


def simulate(times_s: np.ndarray, service: ServiceTime, scaler: Autoscaler) -> Trace:
    """Run the replicas over the given arrivals."""
    return _Simulation(times_s, service, scaler).run()


class _Simulation:
    """Events in the order of time: an arrival, the end of a batch, a decision, a start."""

    def __init__(self, times_s: np.ndarray, service: ServiceTime, scaler: Autoscaler):
        self._times = times_s
        self._service = service
        self._scaler = scaler
        self._up = [_Replica() for _ in range(scaler.least)]
        self._starting = 0
        self._next = 0  # of the round robin
        self._done = np.full(len(times_s), np.nan)
        self._events: list[tuple[float, int, str, object]] = []
        self._number = 0
        self._wanted: deque[tuple[float, int]] = deque()
        self._seen = 0.0  # waiting images at the last scrape
        self._replicas: list[tuple[float, int]] = []
        self._paid_s = 0.0

    def run(self) -> Trace:
        end = float(self._times[-1]) if len(self._times) else 0.0
        self._at(0.0, "decide", None)
        for image, t in enumerate(self._times.tolist()):
            self._events_until(t)
            self._arrive(t, image)
        self._events_until(math.inf, last_decision=end)
        return Trace(
            self._times, self._done - self._times, np.array(self._replicas), self._paid_s / 3600
        )

    def _at(self, t: float, what: str, subject: object) -> None:
        self._number += 1
        heappush(self._events, (t, self._number, what, subject))

    def _events_until(self, t: float, last_decision: float = math.inf) -> None:
        while self._events and self._events[0][0] <= t:
            now, _, what, subject = heappop(self._events)
            if what == "end":
                subject.busy = False
                self._begin(now, subject)
            elif what == "start":
                self._starting -= 1
                self._up.append(_Replica())
            elif now <= last_decision:
                self._decide(now)

    def _arrive(self, now: float, image: int) -> None:
        self._next = (self._next + 1) % len(self._up)
        replica = self._up[self._next]
        replica.waiting.append(image)
        self._begin(now, replica)

    def _begin(self, now: float, replica: _Replica) -> None:
        if replica.busy or not replica.waiting:
            return
        batch = [replica.waiting.popleft() for _ in range(min(MAX_BATCH, len(replica.waiting)))]
        end = now + self._service.seconds(len(batch))
        self._done[batch] = end
        replica.busy = True
        self._at(end, "end", replica)

    def _decide(self, now: float) -> None:
        scaler, up = self._scaler, len(self._up)
        self._replicas.append((now, up))
        self._paid_s += scaler.poll_s * (up + self._starting)
        seen, self._seen = self._seen, float(sum(len(r.waiting) for r in self._up))
        if scaler.target:
            self._scale(now, math.ceil(seen / scaler.target))
        self._at(now + scaler.poll_s, "decide", None)

    def _scale(self, now: float, needed: int) -> None:
        """Follow the manifests: up at once, by at most the double or 4; down one in ten a minute."""
        scaler = self._scaler
        needed = min(max(needed, scaler.least), scaler.most)
        self._wanted.append((now, needed))
        while self._wanted[0][0] < now - scaler.calm_s:
            self._wanted.popleft()
        have = len(self._up) + self._starting
        rate = scaler.poll_s / 60
        if needed > have:
            for _ in range(min(needed - have, math.ceil(max(have, 4) * rate))):
                self._starting += 1
                self._at(now + scaler.start_s, "start", None)
        elif not self._starting and max(n for _, n in self._wanted) < have:
            if now % 60 < scaler.poll_s:
                self._leave(max(1, len(self._up) // 10))

    def _leave(self, count: int) -> None:
        for _ in range(min(count, len(self._up) - self._scaler.least)):
            self._up.pop()  # it finishes what it has: its events stay
            self._paid_s += self._scaler.stop_s


def fit_times(batches: Sequence[tuple[int, float, int]]) -> ServiceTime:
    """Fit a line to measured batches, weighted by how often each was seen.

    Args:
        batches: images in the batch, mean seconds, number of executions.
    """
    sizes, seconds, counts = (
        np.array(column, dtype=float) for column in zip(*batches, strict=True)
    )
    if len(sizes) < 2:
        return ServiceTime(0.0, float(seconds[0] / sizes[0]))
    image_s, fixed_s = np.polyfit(sizes, seconds, 1, w=np.sqrt(counts))
    return ServiceTime(max(float(fixed_s), 0.0), float(image_s))


def measured_batches(url: str, model: str) -> list[tuple[int, float, int]]:
    """Executions of a model of the running server by batch size."""
    with urllib.request.urlopen(f"{url}/v2/models/{model}/stats", timeout=30) as answer:
        batches = json.load(answer)["model_stats"][0]["batch_stats"]
    rows = [
        (b["batch_size"], b["compute_infer"]["ns"], b["compute_infer"]["count"]) for b in batches
    ]
    return [(size, ns / count / 1e9, count) for size, ns, count in rows if count]


def hours(trace: Trace) -> Iterator[tuple[int, float, float, float, float]]:
    """Hour, images a second, mean replicas, and p50 and p99 seconds of that hour's images."""
    for hour in range(24):
        inside = (trace.arrived_s >= hour * 3600) & (trace.arrived_s < (hour + 1) * 3600)
        up = trace.replicas[(trace.replicas[:, 0] // 3600) == hour, 1]
        if inside.any() and len(up):
            p50, p99 = np.percentile(trace.seconds[inside], (50, 99))
            yield hour, inside.sum() / 3600, float(up.mean()), float(p50), float(p99)


def draw(trace: Trace, path: Path) -> None:
    """Draw load, replicas and waits over the day."""
    from matplotlib.figure import Figure

    rows = np.array(list(hours(trace)))
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.step(trace.replicas[:, 0] / 3600, trace.replicas[:, 1], color="tab:blue")
    above.set_ylabel("replicas", color="tab:blue")
    load = above.twinx()
    load.plot(rows[:, 0] + 0.5, rows[:, 1], color="tab:gray")
    load.set_ylabel("images/s", color="tab:gray")
    load.set_ylim(0)
    below.semilogy(rows[:, 0] + 0.5, rows[:, 4], color="tab:red", label="p99")
    below.semilogy(rows[:, 0] + 0.5, rows[:, 3], color="tab:green", label="p50")
    below.set(xlabel="hour of the day", ylabel="seconds to the score", xlim=(0, 24))
    below.legend()
    figure.savefig(path, dpi=110)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Estimate replicas and waits from measured times."""


@main.command()
@click.option("--url", default="http://localhost:8000", help="HTTP of the server.")
def times(url: str) -> None:
    """Fit the step times of a server that has had load."""
    total = [0.0, 0.0]
    for step in STEPS:
        found = fit_times(measured_batches(url, step))
        total = [total[0] + found.fixed_s, total[1] + found.image_s]
        click.echo(
            f"{step:12} {found.fixed_s * 1e3:8.2f} ms + {found.image_s * 1e3:7.2f} ms an image"
        )
    click.echo(f"all steps    {total[0] * 1e3:8.2f} ms + {total[1] * 1e3:7.2f} ms an image")


@main.command()
@click.option(
    "--fixed-ms", type=click.FloatRange(0), required=True, help="Of a batch, per `times`."
)
@click.option("--image-ms", type=click.FloatRange(0, min_open=True), required=True)
@click.option("--night", type=float, default=5.0, help="Lowest rate, images a second.")
@click.option("--peak", type=float, default=50.0, help="Highest rate, images a second.")
@click.option("--burst", type=float, default=1.0, help="Times the rate, for 10 minutes at 16 h.")
@click.option("--target", type=float, help="Waiting images a replica; without it nothing scales.")
@click.option("--least", type=click.IntRange(1), default=2, help="Replicas at least.")
@click.option("--most", type=click.IntRange(1), default=10, help="Replicas at most.")
@click.option("--start-s", type=float, default=180.0, help="Seconds until a new replica scores.")
@click.option("--slow-s", type=float, default=2.0, help="What counts as slow.")
@click.option("--seed", type=int, default=0)
@click.option("--table", is_flag=True, help="A line for each hour.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw it there.")
def day(
    fixed_ms: float,
    image_ms: float,
    night: float,
    peak: float,
    burst: float,
    target: float | None,
    least: int,
    most: int,
    start_s: float,
    slow_s: float,
    seed: int,
    table: bool,
    figure: Path | None,
) -> None:
    """Simulate 24 hours."""
    service = ServiceTime(fixed_ms / 1e3, image_ms / 1e3)
    scaler = Autoscaler(target, least, most, start_s=start_s)
    times_s = arrivals(Day(night, peak, burst), np.random.default_rng(seed))
    trace = simulate(times_s, service, scaler)
    if table:
        click.echo("hour  images/s  replicas   p50 s    p99 s")
        for hour, rate, up, p50, p99 in hours(trace):
            click.echo(f"{hour:4}  {rate:8.1f}  {up:8.1f}  {p50:6.3f}  {p99:7.3f}")
    p50, p99 = np.percentile(trace.seconds, (50, 99))
    click.echo(
        f"{len(times_s)} images; a replica scores at most {service.capacity:.1f} a second; "
        f"p50 {p50:.3f} s, p99 {p99:.3f} s, longest {trace.seconds.max():.1f} s; "
        f"over {slow_s:g} s: {(trace.seconds > slow_s).mean():.3%}; "
        f"replica hours {trace.replica_hours:.1f}, at most {int(trace.replicas[:, 1].max())} replicas"
    )
    if figure:
        draw(trace, figure)


if __name__ == "__main__":
    main()
