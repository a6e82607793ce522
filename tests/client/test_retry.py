"""When calls are sent again: a clock and a jitter that the test decides."""

import pytest

from ma_agiqa_client import Retry
from ma_agiqa_client.retry import Clock, Outage


class Now:
    def __init__(self):
        self.s = 1000.0

    def __call__(self):
        return self.s


@pytest.fixture
def now():
    return Now()


def test_delays_double_up_to_the_largest():
    retry = Retry(initial_backoff_s=0.1, max_backoff_s=1.0)
    delays = [retry.delay_s(tries, jitter=0) for tries in (1, 2, 3, 4, 5, 100)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_jitter_takes_off_up_to_a_half():
    assert Retry().delay_s(1, jitter=1) == pytest.approx(Retry().delay_s(1, jitter=0) / 2)


@pytest.mark.parametrize(
    "field", ["budget_s", "connect_budget_s", "initial_backoff_s", "max_backoff_s"]
)
def test_durations_are_not_negative(field):
    for value in (-1, float("nan")):
        with pytest.raises(ValueError, match=field):
            Retry(**{field: value})


def waited(outage, now, left_s=1e9):
    """Seconds that one call waits in all."""
    began, tries = now.s, 0
    while (delay_s := outage.delay_s(tries := tries + 1, left_s)) is not None:
        now.s += delay_s
    return now.s - began


def test_connecting_has_a_budget_of_its_own(now):
    outage = Outage(Retry(budget_s=30, connect_budget_s=3), now, jitter=lambda: 0.5)
    assert 1 < waited(outage, now) <= 3


def test_an_answer_ends_the_outage(now):
    outage = Outage(Retry(budget_s=30), now, jitter=lambda: 0.5)
    outage.ended()
    waited(outage, now)
    outage.ended()
    assert waited(outage, now) > 27


def test_an_outage_of_long_ago_counts_no_more(now):
    outage = Outage(Retry(budget_s=30), now, jitter=lambda: 0.5)
    outage.ended()
    waited(outage, now)
    now.s += 60
    assert waited(outage, now) > 27


def test_a_clock_counts_down(now):
    clock = Clock(2.0, now)
    now.s += 1.5
    assert clock.left_s() == pytest.approx(0.5)
    assert clock.elapsed_ms() == pytest.approx(1500)
