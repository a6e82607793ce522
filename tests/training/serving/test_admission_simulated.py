"""Who is refused by a server with two networks in a chain, and batches of b images in a + c * b.

The networks share a processor, a GPU or a CPU: each takes half of that time alone, and twice as
long while the other computes.
"""

import heapq
import json
import random
from dataclasses import dataclass, field

import pytest

from ma_agiqa.serving.admission import Admission

LARGEST, MAX_WAIT_S, READ_S = 32, 3.0, 0.1
SERVERS = {"gpu": (0.012, 0.0042), "fast gpu": (0.004, 0.001), "cpu": (0.0, 0.018)}


@dataclass
class Step:
    """A network: when the requests of its queue, and of the batch that it computes, came."""

    queue: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    images: int = 0
    batches: int = 0


@dataclass
class Server:
    """The steps, the clock and the metrics; requests of one image with seconds until a deadline."""

    fixed: float
    each: float
    deadline_s: float
    now_s: float = 0.0
    slow_until_s: float = 0.0
    refused: list[float] = field(default_factory=list)  # when
    in_time: int = 0
    late: int = 0
    steps: dict[str, Step] = field(default_factory=lambda: {"b": Step(), "c": Step()})

    def metrics(self) -> str:
        return "".join(
            f'nv_inference_pending_request_count{{model="{name}"}} {len(step.queue)}\n'
            f'nv_inference_count{{model="{name}"}} {step.images}\n'
            f'nv_inference_exec_count{{model="{name}"}} {step.batches}\n'
            for name, step in self.steps.items()
        )

    @property
    def capacity(self) -> float:
        return LARGEST / (self.fixed + self.each * LARGEST)

    def run(self, arrivals: list[float]) -> None:
        events = [(time, "request") for time in arrivals]
        events += [(READ_S * n, "read") for n in range(int((arrivals[-1] + 9) / READ_S))]
        heapq.heapify(events)
        clock = lambda: self.now_s  # noqa: E731
        admission = Admission(("a", *self.steps), LARGEST, MAX_WAIT_S, self.metrics, clock)
        while events:
            self.now_s, event = heapq.heappop(events)
            if event == "read":
                admission.read()
            elif event == "request":
                deadline = {"deadline_unix_us": round((self.now_s + self.deadline_s) * 1e6)}
                now_us = round(self.now_s * 1e6) or 1
                if admission.refusal(json.dumps(deadline), 1, now_us) is None:
                    admission.passed_on()
                    self.steps["b"].queue.append(self.now_s)
                else:
                    self.refused.append(self.now_s)
            else:
                self.end_batch(event)
            for name in self.steps:
                if batch_s := self.begin_batch(name):
                    heapq.heappush(events, (self.now_s + batch_s, name))
        admission.close()

    def begin_batch(self, name: str) -> float | None:
        """Take a batch from the queue, but for what is late; return how long it will take."""
        step = self.steps[name]
        if step.running or not step.queue:
            return None
        fresh = [came for came in step.queue if self.now_s <= came + self.deadline_s]
        self.late += len(step.queue) - len(fresh)
        step.running, step.queue = fresh[:LARGEST], fresh[LARGEST:]
        if not step.running:
            return None
        shared = sum(bool(other.running) for other in self.steps.values()) / len(self.steps)
        slowness = 20 if self.now_s < self.slow_until_s else 1
        return slowness * shared * (self.fixed + self.each * len(step.running))

    def end_batch(self, name: str) -> None:
        step = self.steps[name]
        step.images, step.batches = step.images + len(step.running), step.batches + 1
        if name == "b":
            self.steps["c"].queue += step.running
        else:
            ends = [self.now_s <= came + self.deadline_s for came in step.running]
            self.in_time += sum(ends)
            self.late += len(ends) - sum(ends)
        step.running = []


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(Admission, "_watch", lambda self: None)


def arrivals(*phases: tuple[float, float]) -> list[float]:
    """Random times of requests: phases of a rate per second and a length in seconds."""
    chance, times, start = random.Random(1), [], 0.0
    for rate, seconds in phases:
        time = start
        while rate and (time := time + chance.expovariate(rate)) < start + seconds:
            times.append(time)
        start += seconds
    return times


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("quiet", [0.1, 0.3, 0.6, 0.9])
def test_a_burst_that_fits_is_taken_after_quiet_traffic(name, quiet):
    """Quiet traffic says nothing of what a server with full batches can do."""
    server = Server(*SERVERS[name], deadline_s=60.0)
    burst = 0.8 * MAX_WAIT_S * server.capacity  # takes less than may wait
    server.run(arrivals((quiet * server.capacity, 30.0), (2 * burst, 0.5)))
    assert not server.refused
    assert not server.late


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(("deadline_s", "idle_s"), [(2.0, None), (60.0, None), (5.0, 3.0)])
def test_four_times_the_capacity(name, deadline_s, idle_s):
    """From a start, or after an idle time, in which the server may have become faster."""
    server = Server(*SERVERS[name], deadline_s=deadline_s)
    seconds = 20.0
    before = [] if idle_s is None else [(0.8 * server.capacity, 10.0), (0.0, idle_s)]
    times = arrivals(*before, (4 * server.capacity, seconds))
    server.run(times)
    sent_before = sum(time < times[-1] - seconds for time in times)
    assert server.in_time - sent_before >= 0.9 * seconds * server.capacity
    assert len(server.refused) > 2 * seconds * server.capacity
    assert server.late <= 0.1 * server.in_time


@pytest.mark.parametrize("name", SERVERS)
def test_it_recovers_from_a_slow_time(name):
    """Bursts that fit are taken after a phase in which each image took twenty times as long.

    A burst of half a second's work comes within 0.5 s, and 2 s are left for each request.
    """
    slow_s = 20.0
    server = Server(*SERVERS[name], deadline_s=2.0, slow_until_s=slow_s)
    bursts = [(0.0, 3.0), (server.capacity, 0.5)] * 5
    server.run(arrivals((server.capacity / 5, slow_s), *bursts))
    assert any(time < slow_s for time in server.refused)
    assert not [time for time in server.refused if time >= slow_s]
