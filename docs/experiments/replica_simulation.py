"""How replicas follow a day's load, and how long images wait: a simulation from measured times.

    python docs/experiments/replica_simulation.py times --url http://localhost:8000
    python docs/experiments/replica_simulation.py day --fixed-ms 8 --image-ms 10 --peak 300

Images arrive at random around a daily curve. gRPC's round robin spreads them over the replicas;
each replica takes the images that wait for it as one batch, at most 32, and is busy for a measured
time. Every 15 s the autoscaler looks at the numbers of the last scrape and moves as the Helm
chart says.

Left out: the time in other steps than the slowest, the network, retries (a retry adds load), images
of very different sizes, and neighbors on the machine. Rates and times scale together: a server that
is 10 times as fast needs the same replicas at 10 times the load.
"""

import json
import math
import urllib.request
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import click
import numpy as np

DAY_S = 86_400
MAX_BATCH = 32
STEPS = ("preprocess", "mplug_owl2", "maniqa_moe", "meter")


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
        queue: waiting images for each replica; None does not look at them.
        busy: share of the time in which a replica computes; None does not look at it. With neither,
            `least` replicas stay.
        least, most: bounds of the number of replicas.
        start_s: from the decision to the first image, which includes loading the weights.
        stop_s: how long a replica that has to leave finishes its images, and is paid for.
        calm_s: a replica leaves only if it was not needed for this many seconds.
        poll_s: time between decisions; the numbers are as old as that.
    """

    queue: float | None
    busy: float | None
    least: int
    most: int
    start_s: float = 180.0
    stop_s: float = 60.0
    calm_s: float = 600.0
    poll_s: float = 15.0

    def needed(self, queue: int, busy: float, up: int) -> int:
        """Replicas by the number that asks for most; a tenth off its target is no change."""
        asked = [0]
        for value, target in ((queue, self.queue), (busy, self.busy)):
            if target:
                ratio = value / (target * up)
                asked.append(up if abs(ratio - 1) <= 0.1 else max(math.ceil(value / target), 1))
        return max(asked)


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


def arrivals(night: float, peak: float, burst: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a day's arrival times: a Poisson process whose rate follows a curve, by thinning.

    Args:
        night: images a second at 4 h, the lowest rate.
        peak: images a second at 16 h, the highest rate.
        burst: for ten minutes from 16 h on, the rate is the curve's times this.
        rng: random numbers.
    """
    highest = peak * max(burst, 1.0)
    count = rng.poisson(highest * DAY_S)
    times = np.sort(rng.uniform(0, DAY_S, count))
    curve = (1 - np.cos(2 * np.pi * (times / DAY_S - 4 / 24))) / 2
    in_burst = (times >= 16 * 3600) & (times < 16 * 3600 + 600)
    rate = (night + (peak - night) * curve) * np.where(in_burst, burst, 1.0)
    return times[rng.uniform(0, highest, count) < rate]


class _Replica:
    def __init__(self) -> None:
        self.waiting: deque[int] = deque()
        self.busy = False


class Simulation:
    """Events in the order of time: an arrival, the end of a batch, a decision, a start."""

    def __init__(self, times_s: np.ndarray, service: ServiceTime, scaler: Autoscaler):
        self._times, self._service, self._scaler = times_s, service, scaler
        self._up = [_Replica() for _ in range(scaler.least)]
        self._starting = 0
        self._next = 0  # replica in the round robin
        self._done = np.full(len(times_s), np.nan)
        self._events: list[tuple[float, int, str, object]] = []
        self._number = 0
        self._wanted: deque[tuple[float, int]] = deque()
        self._busy_s = 0.0  # of all batches that have ended, as the metric counts them
        self._scrapes: deque[tuple[int, float]] = deque(maxlen=round(60 / scaler.poll_s) + 2)
        self._replicas: list[tuple[float, int]] = []
        self._paid_s = 0.0

    def run(self) -> Trace:
        """Simulate until the last image has its score."""
        self._at(0.0, "decide", None)
        for image, t in enumerate(self._times.tolist()):
            self._events_until(t)
            self._next = (self._next + 1) % len(self._up)
            self._up[self._next].waiting.append(image)
            self._begin(t, self._up[self._next])
        self._events_until(math.inf, last_decision=float(self._times[-1]))
        waits, replicas = self._done - self._times, np.array(self._replicas)
        return Trace(self._times, waits, replicas, self._paid_s / 3600)

    def _at(self, t: float, what: str, subject: object) -> None:
        self._number += 1
        heappush(self._events, (t, self._number, what, subject))

    def _events_until(self, t: float, last_decision: float = math.inf) -> None:
        while self._events and self._events[0][0] <= t:
            now, _, what, subject = heappop(self._events)
            if what == "end":
                replica, seconds = subject
                replica.busy = False
                self._busy_s += seconds
                self._begin(now, replica)
            elif what == "start":
                self._starting -= 1
                self._up.append(_Replica())
            elif now <= last_decision:
                self._decide(now)

    def _begin(self, now: float, replica: _Replica) -> None:
        if replica.busy or not replica.waiting:
            return
        batch = [replica.waiting.popleft() for _ in range(min(MAX_BATCH, len(replica.waiting)))]
        seconds = self._service.seconds(len(batch))
        self._done[batch] = now + seconds
        replica.busy = True
        self._at(now + seconds, "end", (replica, seconds))

    def _decide(self, now: float) -> None:
        """Decide by the last scrape but one, as metrics are that old."""
        scaler, up = self._scaler, len(self._up)
        self._replicas.append((now, up))
        self._paid_s += scaler.poll_s * (up + self._starting)
        self._scrapes.append((sum(len(replica.waiting) for replica in self._up), self._busy_s))
        if len(self._scrapes) > 1:
            scrapes = list(self._scrapes)[:-1]
            (_, first), (queue, last) = scrapes[0], scrapes[-1]
            busy = (last - first) / (scaler.poll_s * max(len(scrapes) - 1, 1))
            if needed := scaler.needed(queue, busy, up):
                self._scale(now, needed)
        self._at(now + scaler.poll_s, "decide", None)

    def _scale(self, now: float, needed: int) -> None:
        """Go up at once, by at most the double or 4 in a minute; down by a tenth in a minute."""
        scaler = self._scaler
        needed = min(max(needed, scaler.least), scaler.most)
        self._wanted.append((now, needed))
        while self._wanted[0][0] < now - scaler.calm_s:
            self._wanted.popleft()
        have = len(self._up) + self._starting
        calm = not self._starting and max(wanted for _, wanted in self._wanted) < have
        if needed > have:
            for _ in range(min(needed - have, math.ceil(max(have, 4) * scaler.poll_s / 60))):
                self._starting += 1
                self._at(now + scaler.start_s, "start", None)
        elif calm and now % 60 < scaler.poll_s:
            for _ in range(min(max(1, len(self._up) // 10), len(self._up) - scaler.least)):
                self._up.pop()  # it finishes what it has: its events stay
                self._paid_s += scaler.stop_s


def fit_times(batches: Sequence[tuple[int, float, int]]) -> ServiceTime:
    """Fit a line to measured batches, weighted by how often each was seen.

    Args:
        batches: images in the batch, mean seconds, number of executions.
    """
    sizes, seconds, counts = (np.array(column, float) for column in zip(*batches, strict=True))
    if len(sizes) < 2:
        return ServiceTime(0.0, float(seconds[0] / sizes[0]))
    image_s, fixed_s = np.polyfit(sizes, seconds, 1, w=np.sqrt(counts))
    return ServiceTime(max(float(fixed_s), 0.0), float(image_s))


def measured_batches(url: str, model: str) -> list[tuple[int, float, int]]:
    """Executions of a model of the running server, as `fit_times` takes them."""
    with urllib.request.urlopen(f"{url}/v2/models/{model}/stats", timeout=30) as answer:
        batches = json.load(answer)["model_stats"][0]["batch_stats"]
    found = [(b["batch_size"], b["compute_infer"]) for b in batches]
    return [(size, c["ns"] / c["count"] / 1e9, c["count"]) for size, c in found if c["count"]]


def draw(trace: Trace, path: Path) -> None:
    """Draw load, replicas and waits by the hour."""
    from matplotlib.figure import Figure

    hours = np.arange(24)
    parts = [trace.seconds[trace.arrived_s // 3600 == hour] for hour in hours]
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.step(trace.replicas[:, 0] / 3600, trace.replicas[:, 1], color="tab:blue")
    above.set_ylabel("replicas", color="tab:blue")
    load = above.twinx()
    load.plot(hours + 0.5, [len(part) / 3600 for part in parts], color="tab:gray")
    load.set_ylabel("images/s", color="tab:gray")
    load.set_ylim(0)
    for percent, color in ((99, "tab:red"), (50, "tab:green")):
        waits = [np.percentile(part, percent) for part in parts]
        below.semilogy(hours + 0.5, waits, color=color, label=f"p{percent}")
    below.set(xlabel="hour of the day", ylabel="seconds to the score", xlim=(0, 24))
    below.legend()
    figure.savefig(path, dpi=110)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Estimate replicas and waits from measured times."""


@main.command()
@click.option("--url", default="http://localhost:8000", help="HTTP address of the server.")
def times(url: str) -> None:
    """Fit the step times of a server that has had load."""
    found = {step: fit_times(measured_batches(url, step)) for step in STEPS}
    for step, time in found.items():
        click.echo(
            f"{step:11} {time.fixed_s * 1e3:7.2f} ms + {time.image_s * 1e3:7.2f} ms an image, "
            f"{time.capacity:7.1f} images/s in full batches"
        )
    slowest = min(found, key=lambda step: found[step].capacity)
    click.echo(
        f"The slowest step, {slowest}, limits a replica: --fixed-ms "
        f"{found[slowest].fixed_s * 1e3:.2f} --image-ms {found[slowest].image_s * 1e3:.2f}"
    )


@main.command()
@click.option("--fixed-ms", type=float, required=True, help="Time of a batch, from `times`.")
@click.option("--image-ms", type=float, required=True, help="Time of each image in it.")
@click.option("--night", type=float, default=5.0, help="Lowest rate, images a second.")
@click.option("--peak", type=float, default=50.0, help="Highest rate, images a second.")
@click.option("--burst", type=float, default=1.0, help="Times the rate, for 10 minutes at 16 h.")
@click.option("--queue", type=float, help="Scale on this many waiting images for each replica.")
@click.option("--busy", type=float, help="Scale on this share of time that each replica computes.")
@click.option("--least", type=click.IntRange(1), default=2, help="Least number of replicas.")
@click.option("--most", type=click.IntRange(1), default=10, help="Largest number of replicas.")
@click.option("--start-s", type=float, default=180.0, help="Seconds until a new replica scores.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw it there.")
def day(
    fixed_ms: float,
    image_ms: float,
    night: float,
    peak: float,
    burst: float,
    queue: float | None,
    busy: float | None,
    least: int,
    most: int,
    start_s: float,
    figure: Path | None,
) -> None:
    """Simulate 24 hours."""
    service = ServiceTime(fixed_ms / 1e3, image_ms / 1e3)
    scaler = Autoscaler(queue, busy, least, most, start_s=start_s)
    times_s = arrivals(night, peak, burst, np.random.default_rng(0))
    trace = Simulation(times_s, service, scaler).run()
    p50, p99 = np.percentile(trace.seconds, (50, 99))
    click.echo(
        f"{len(times_s)} images; a replica scores at most {service.capacity:.1f} a second; "
        f"p50 {p50:.3f} s, p99 {p99:.3f} s, longest {trace.seconds.max():.1f} s; "
        f"over 2 s: {(trace.seconds > 2).mean():.3%}; replica hours {trace.replica_hours:.1f}, "
        f"at most {int(trace.replicas[:, 1].max())} replicas"
    )
    if figure:
        draw(trace, figure)


if __name__ == "__main__":
    main()
