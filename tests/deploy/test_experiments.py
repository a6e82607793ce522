"""The experiments of docs/experiments run, and give what the pages say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from replica_simulation import Autoscaler, ServiceTime, Simulation, fit_times, measured_batches

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "docs" / "experiments"


def run(*command: str) -> str:
    script = [sys.executable, EXPERIMENTS / command[0]]
    done = subprocess.run([*script, *command[1:]], capture_output=True, text=True, check=True)
    return done.stdout


def test_what_waits_in_the_simulation_goes_as_one_batch_of_at_most_32():
    times = np.concatenate([[0.0], np.full(40, 0.5)])
    fixed = Autoscaler(queue=None, busy=None, least=1, most=1)
    trace = Simulation(times, ServiceTime(1.0, 0.1), fixed).run()
    ends = np.round(trace.arrived_s + trace.seconds, 6)
    first, second, third = 1.1, 1.1 + 1 + 3.2, 1.1 + 4.2 + 1 + 0.8
    np.testing.assert_allclose(ends, [first] + [second] * 32 + [third] * 8)


def test_the_simulated_wait_is_that_of_the_page():
    day = ["day", "--fixed-ms", "0", "--image-ms", "191.8", "--night", "1", "--peak", "10"]
    assert "p99 0.572 s" in run("replica_simulation.py", *day, "--queue", "8", "--busy", "0.7")
    assert "0.572 s" in (ROOT / "docs" / "scale.md").read_text()


def test_times_are_read_from_a_running_server_and_fitted(server):
    batches = measured_batches(server.http_url, "mplug_owl2")
    assert {size for size, _, _ in batches} >= {1, 8}  # the warm-up's
    assert all(0 < seconds < 60 and count >= 1 for _, seconds, count in batches)
    found = fit_times([(n, 0.008 + n * 0.005, 10) for n in (1, 2, 8)])
    assert (found.fixed_s, found.image_s) == pytest.approx((0.008, 0.005))


@pytest.mark.slow
def test_the_queue_policy_is_tried_on_every_step():
    lines = run("queue_policy_stall.py", "--concurrency", "8", "--seconds", "0.2").splitlines()
    assert [line[:12].strip() for line in lines] == ["no limit", "first step", "second step"]
    assert all("done/s, p99" in line for line in lines)
