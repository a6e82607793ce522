"""Replicas behind a round robin, batches, and Kubernetes' autoscaler: a simulation of events.

Images arrive at random around a daily curve. gRPC's round robin spreads them over the replicas;
each replica takes what waits for it as one batch, at most 32, and is busy for a measured time.
Every 15 s the autoscaler looks at the numbers of the last scrape and moves as the manifests of
components/hpa and components/keda say.
"""

import math
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

__all__ = ["DAY_S", "Autoscaler", "Day", "ServiceTime", "Trace", "arrivals", "simulate"]

DAY_S = 86_400
MAX_BATCH = 32


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
        stop_s: how long a replica goes on with what it has, and is paid for, after it must leave.
        calm_s: a replica leaves only if none was needed in the last so many seconds.
        poll_s: how often is decided; the numbers are as old as that.
    """

    queue: float | None
    busy: float | None
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
        self._busy_s = 0.0  # of all batches that have ended, as the metric counts them
        self._scrapes: deque[tuple[int, float]] = deque(maxlen=round(60 / scaler.poll_s) + 2)
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
                replica, seconds = subject
                replica.busy = False
                self._busy_s += seconds
                self._begin(now, replica)
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
        seconds = self._service.seconds(len(batch))
        self._done[batch] = now + seconds
        replica.busy = True
        self._at(now + seconds, "end", (replica, seconds))

    def _decide(self, now: float) -> None:
        scaler, up = self._scaler, len(self._up)
        self._replicas.append((now, up))
        self._paid_s += scaler.poll_s * (up + self._starting)
        self._scrapes.append((sum(len(replica.waiting) for replica in self._up), self._busy_s))
        if needed := self._needed(up):
            self._scale(now, needed)
        self._at(now + scaler.poll_s, "decide", None)

    def _needed(self, up: int) -> int:
        """Replicas by the number that asks for most, from the last scrape but one; 0 without."""
        if len(self._scrapes) < 2:
            return 0
        scrapes, scaler = list(self._scrapes)[:-1], self._scaler
        (_, first), (queue, last) = scrapes[0], scrapes[-1]
        busy = (last - first) / (scaler.poll_s * max(len(scrapes) - 1, 1))
        asked = [
            _replicas(value, target, up)
            for value, target in ((queue, scaler.queue), (busy, scaler.busy))
            if target
        ]
        return max(asked, default=0)

    def _scale(self, now: float, needed: int) -> None:
        """Go up at once, by at most the double or 4 in a minute; down by a tenth in a minute."""
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
        elif self._leaves(now, have):
            self._leave(max(1, len(self._up) // 10))

    def _leaves(self, now: float, have: int) -> bool:
        calm = not self._starting and max(needed for _, needed in self._wanted) < have
        return calm and now % 60 < self._scaler.poll_s

    def _leave(self, count: int) -> None:
        for _ in range(min(count, len(self._up) - self._scaler.least)):
            self._up.pop()  # it finishes what it has: its events stay
            self._paid_s += self._scaler.stop_s


def _replicas(value: float, target: float, up: int) -> int:
    """Kubernetes' rule for a number and its target for each replica; a tenth off is no change."""
    if abs(value / (target * up) - 1) <= 0.1:
        return up
    return max(math.ceil(value / target), 1)
