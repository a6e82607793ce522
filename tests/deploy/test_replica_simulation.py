"""The simulation of replicas, against formulas of queueing theory and the rules of Kubernetes."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from replica_simulation import Autoscaler, Day, ServiceTime, arrivals, simulate
from simulate_replicas import fit_times, hours, measured_batches

COMMAND = Path(__file__).resolve().parents[2] / "docs" / "experiments" / "simulate_replicas.py"
NOTHING_SCALES = Autoscaler(queue=None, busy=None, least=1, most=1)


def steady(rate: float, seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def test_an_image_alone_takes_its_service_time():
    trace = simulate(np.array([1.0, 5.0]), ServiceTime(0.2, 0.1), NOTHING_SCALES)
    np.testing.assert_allclose(trace.seconds, [0.3, 0.3])


def test_what_waits_goes_as_one_batch_of_at_most_32():
    times = np.concatenate([[0.0], np.full(40, 0.5)])
    trace = simulate(times, ServiceTime(1.0, 0.1), NOTHING_SCALES)
    ends = np.round(trace.arrived_s + trace.seconds, 6)
    first, second, third = 1.1, 1.1 + 1 + 3.2, 1.1 + 4.2 + 1 + 0.8
    np.testing.assert_allclose(ends, [first] + [second] * 32 + [third] * 8)


def test_waits_of_single_images_are_those_of_the_queue_m_d_1(monkeypatch):
    monkeypatch.setattr("replica_simulation.MAX_BATCH", 1)
    service_s, load = 0.05, 0.8
    trace = simulate(steady(load / service_s, 6_000), ServiceTime(0, service_s), NOTHING_SCALES)
    expected = service_s * load / (2 * (1 - load))  # Pollaczek-Khinchine, constant service
    assert (trace.seconds - service_s).mean() == pytest.approx(expected, rel=0.08)


def test_batches_carry_more_than_single_images_could():
    service = ServiceTime(0.09, 0.01)
    assert service.capacity == pytest.approx(32 / 0.41)
    trace = simulate(steady(50, 600), service, NOTHING_SCALES)  # 10 a second one by one
    assert np.percentile(trace.seconds, 99) < 0.5


def test_arrivals_follow_the_day():
    day = Day(night=1, peak=10, burst=3)
    times = arrivals(day, np.random.default_rng(1))
    counts, _ = np.histogram(times, bins=24 * 6, range=(0, 86_400))
    rates = counts / 600
    assert rates[24] == pytest.approx(1, abs=0.3)  # at 4 h
    assert rates[16 * 6 + 3] == pytest.approx(10, abs=0.6)
    assert rates[16 * 6] == pytest.approx(30, abs=1.5)
    assert all(after > before for before, after in pairwise(times[:1000]))


def test_the_autoscaler_follows_the_load_and_lets_replicas_go_slowly():
    service = ServiceTime(0.05, 0.5)
    times = arrivals(Day(night=0.4, peak=10), np.random.default_rng(2))
    scaler = Autoscaler(queue=8, busy=0.7, least=2, most=12)
    trace = simulate(times, service, scaler)
    assert len(trace.seconds) == len(times)
    assert not np.isnan(trace.seconds).any()
    at_night = trace.replicas[(trace.replicas[:, 0] // 3600) == 4, 1]
    at_peak = trace.replicas[(trace.replicas[:, 0] // 3600) == 15, 1]
    assert set(at_night) == {2}
    assert at_peak.min() > 10 * 0.5  # fewer could not carry the load
    assert np.diff(trace.replicas[:, 1]).min() >= -2
    assert np.percentile(trace.seconds, 99) < 10
    fixed = Autoscaler(None, None, least=int(at_peak.max()), most=int(at_peak.max()))
    assert trace.replica_hours < 0.8 * simulate(times, service, fixed).replica_hours


def test_the_queue_alone_lets_busy_replicas_go():
    """Why the manifests look at the busy time, too."""
    service = ServiceTime(0.05, 0.5)
    times = arrivals(Day(night=0.4, peak=10), np.random.default_rng(2))
    slow = {
        busy: (simulate(times, service, Autoscaler(8, busy, 2, 12)).seconds > 10).mean()
        for busy in (None, 0.7)
    }
    assert slow[None] > 5 * slow[0.7]


def test_a_new_replica_takes_its_time():
    scaler = Autoscaler(queue=1, busy=None, least=1, most=2, start_s=100)
    trace = simulate(steady(30, 300), ServiceTime(0, 0.1), scaler)
    two = trace.replicas[trace.replicas[:, 1] == 2, 0]
    assert 100 <= two.min() <= 100 + 3 * scaler.poll_s


def test_measured_times_are_fitted_by_a_line():
    batches = [(n, 0.008 + n * 0.005, 10) for n in (1, 2, 8)]
    found = fit_times(batches)
    assert (found.fixed_s, found.image_s) == pytest.approx((0.008, 0.005))
    assert fit_times([(4, 0.2, 1)]) == ServiceTime(0.0, 0.05)


def test_the_command_says_what_a_day_brings():
    options = ["--fixed-ms", "10", "--image-ms", "100", "--night", "1", "--peak", "5"]
    done = subprocess.run(
        [sys.executable, COMMAND, "day", *options, "--busy", "0.7", "--table"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 26
    assert "a replica scores at most 10.0 a second" in lines[-1]
    trace = simulate(
        arrivals(Day(1, 5), np.random.default_rng(0)),
        ServiceTime(0.01, 0.1),
        Autoscaler(None, 0.7, 2, 10),
    )
    assert [int(line.split()[0]) for line in lines[1:25]] == [row[0] for row in hours(trace)]


def test_times_are_read_from_a_running_server(server):
    batches = measured_batches(server.http_url, "mplug_owl2")
    assert {size for size, _, _ in batches} >= {1, 8}  # the warm-up's
    assert all(0 < seconds < 60 and count >= 1 for _, seconds, count in batches)
