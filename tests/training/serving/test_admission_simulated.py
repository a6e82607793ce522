"""Who is refused by a server with dynamic batching, whose batches of b images take a + c * b."""

import heapq
import json
import random
from dataclasses import dataclass, field

import pytest

from ma_agiqa.serving.admission import Admission

LARGEST, MAX_WAIT_S, READ_S = 32, 3.0, 0.1
SERVERS = {"gpu": (0.012, 0.0042), "fast gpu": (0.004, 0.001), "cpu": (0.0, 0.018)}


@dataclass
class Server:
    """The queue, the clock and the metrics; requests of one image with seconds until a deadline."""

    fixed: float
    each: float
    deadline_s: float
    now_s: float = 0.0
    queue: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    images: int = 0
    batches: int = 0
    slow_until_s: float = 0.0
    refused: list[float] = field(default_factory=list)  # when
    in_time: int = 0
    late: int = 0

    def metrics(self) -> str:
        return (
            f'nv_inference_pending_request_count{{model="b"}} {len(self.queue)}\n'
            f'nv_inference_count{{model="b"}} {self.images}\n'
            f'nv_inference_exec_count{{model="b"}} {self.batches}\n'
        )

    def batch_s(self, images: int) -> float:
        slowness = 20 if self.now_s < self.slow_until_s else 1
        return slowness * (self.fixed + self.each * images)

    @property
    def capacity(self) -> float:
        return LARGEST / (self.fixed + self.each * LARGEST)

    def run(self, arrivals: list[float]) -> None:
        events = [(time, "request") for time in arrivals]
        events += [(READ_S * n, "read") for n in range(int((arrivals[-1] + 9) / READ_S))]
        heapq.heapify(events)
        admission = Admission(("a", "b"), LARGEST, MAX_WAIT_S, self.metrics, lambda: self.now_s)
        while events:
            self.now_s, event = heapq.heappop(events)
            if event == "read":
                admission.read()
            elif event == "request":
                deadline = {"deadline_unix_us": round((self.now_s + self.deadline_s) * 1e6)}
                now_us = round(self.now_s * 1e6) or 1
                if admission.refusal(json.dumps(deadline), 1, now_us) is None:
                    admission.passed_on()
                    self.queue.append(self.now_s)
                else:
                    self.refused.append(self.now_s)
            else:
                self.images += len(self.running)
                self.batches += 1
                ends = [self.now_s <= came + self.deadline_s for came in self.running]
                self.in_time += sum(ends)
                self.late += len(ends) - sum(ends)
                self.running = []
            if not self.running:
                fresh = [came for came in self.queue if self.now_s <= came + self.deadline_s]
                self.late += len(self.queue) - len(fresh)  # a step drops them without computing
                self.running, self.queue = fresh[:LARGEST], fresh[LARGEST:]
                if self.running:
                    done = self.now_s + self.batch_s(len(self.running))
                    heapq.heappush(events, (done, "done"))
        admission.close()


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
@pytest.mark.parametrize("deadline_s", [2.0, 60.0])
def test_four_times_the_capacity(name, deadline_s):
    server = Server(*SERVERS[name], deadline_s=deadline_s)
    seconds = 20.0
    server.run(arrivals((4 * server.capacity, seconds)))
    assert server.in_time >= 0.9 * seconds * server.capacity
    assert len(server.refused) > 2 * seconds * server.capacity
    assert server.late <= 0.1 * server.in_time


@pytest.mark.parametrize("name", SERVERS)
def test_it_recovers_from_a_slow_time(name):
    """Bursts that fit are taken after a phase in which each image took twenty times as long."""
    slow_s = 20.0
    server = Server(*SERVERS[name], deadline_s=2.0, slow_until_s=slow_s)
    bursts = [(0.0, 3.0), (server.capacity, 1.0)] * 5
    server.run(arrivals((server.capacity / 5, slow_s), *bursts))
    assert any(time < slow_s for time in server.refused)
    assert all(time < slow_s + 3.5 for time in server.refused)  # the first burst teaches it
