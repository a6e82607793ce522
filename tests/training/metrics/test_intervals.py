"""Bootstrap intervals: equal to resampling by hand, with ties too, and covering the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.metrics import agreement
from ma_agiqa.metrics.agreement import evaluate
from ma_agiqa.metrics.intervals import bootstrap

METRICS = ("srcc", "plcc", "krcc", "rmse", "plcc_raw")


def normal_pair(rng, count, correlation):
    """A pair of normal variables of variance 1."""
    x, noise = rng.normal(size=(2, count))
    return correlation * x + math.sqrt(1 - correlation**2) * noise, x


def bent(rng, count):
    """Labels that follow a logistic curve of the predictions, with noise."""
    x = rng.uniform(-3, 3, count)
    return 5 / (1 + np.exp(-2 * x)) + rng.normal(0, 0.4, count), x


def with_ties(rng, count):
    y, x = normal_pair(rng, count, 0.7)
    return y.round(1), (2 * x).round()


@pytest.mark.parametrize("make", [bent, with_ties])
def test_equal_to_measuring_resamples_one_by_one(make):
    """The same quantiles, but for the noise of 120 other draws."""
    rng = np.random.default_rng(5)
    y, x = make(rng, 120)
    draws = [rng.integers(120, size=120) for _ in range(120)]
    measured = [evaluate(y[draw], x[draw]) for draw in draws]
    found = bootstrap(y, x, resamples=200)
    for name in METRICS:
        values = [getattr(metrics, name) for metrics in measured]
        low, high = np.quantile(values, (0.025, 0.975))
        interval = getattr(found, name)
        tolerance = 0.25 * (high - low)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=tolerance), name


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    correlation, trials = 0.8, 40
    truth = {
        "srcc": 6 / math.pi * math.asin(correlation / 2),
        "krcc": 2 / math.pi * math.asin(correlation),
        "plcc": correlation,
        "plcc_raw": correlation,
        "rmse": math.sqrt(1 - correlation**2),
    }
    rng = np.random.default_rng(20)
    covered = dict.fromkeys(METRICS, 0)
    for _ in range(trials):
        found = bootstrap(*normal_pair(rng, 200, correlation), resamples=60)
        for name, value in truth.items():
            interval = getattr(found, name)
            covered[name] += interval.low <= value <= interval.high
    # 38 of 40 expected; 33 is 3.6 standard deviations (1.4 each) below.
    assert all(33 <= count <= 40 for count in covered.values()), covered
    assert sum(covered.values()) < 5 * trials, "intervals that never miss are too wide"


def test_width_is_that_of_the_textbook():
    y, x = normal_pair(np.random.default_rng(3), 1000, 0.6)
    found = bootstrap(y, x, 400).plcc_raw
    expected = stats.pearsonr(x, y).confidence_interval(0.95)  # Fisher's transformation
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.01)


def test_interval_holds_the_value_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    few, many = bent(rng, 60), bent(rng, 1500)
    wide, narrow = bootstrap(*few, 200), bootstrap(*many, 200)
    value = evaluate(*many)
    for name in METRICS:
        inner, outer = getattr(narrow, name), getattr(wide, name)
        assert inner.low < getattr(value, name) < inner.high
        assert inner.high - inner.low < (outer.high - outer.low) / 2


def test_same_seed_same_intervals():
    y, x = bent(np.random.default_rng(0), 50)
    assert bootstrap(y, x, 50, seed=1) == bootstrap(y, x, 50, seed=1)
    assert bootstrap(y, x, 50, seed=1) != bootstrap(y, x, 50, seed=2)


def test_a_perfect_ranking_has_no_width():
    y, x = np.arange(50.0), np.arange(50.0) * 2 + 1
    found = bootstrap(y, x, 100)
    for interval in (found.srcc, found.krcc, found.plcc_raw):
        assert (interval.low, interval.high) == pytest.approx((1, 1))
    assert (found.rmse.low, found.rmse.high) == pytest.approx((0, 0), abs=0.1)


def test_equal_predictions_have_no_correlation_but_an_rmse():
    labels = np.arange(40.0) / 8
    found = bootstrap(labels, np.full(40, 2.5), 200)
    assert all(math.isnan(getattr(found, name).low) for name in METRICS if name != "rmse")
    assert found.rmse.low < labels.std() < found.rmse.high


def test_without_a_curve_a_straight_line_is_used(monkeypatch):
    y, x = normal_pair(np.random.default_rng(2), 80, 0.9)
    with_curve = bootstrap(y, -x, 200)
    monkeypatch.setattr(agreement, "_least_squares", lambda *_: (1.0, 1.0, 0.0, 1.0))
    found = bootstrap(y, -x, 200)
    assert (found.plcc.low, found.plcc.high) == pytest.approx(
        (-found.plcc_raw.high, -found.plcc_raw.low)
    )
    ends = (with_curve.rmse.low, with_curve.rmse.high)
    assert (found.rmse.low, found.rmse.high) == pytest.approx(ends, abs=0.03)


def test_bad_input():
    with pytest.raises(ConfigError, match="1 resamples give no interval"):
        bootstrap(np.arange(9), np.arange(9), resamples=1)
    with pytest.raises(DataError, match="at least 5"):
        bootstrap([1, 2, 3], [1, 2, 3])
    with pytest.raises(DataError, match=r"labels\[1\] is nan"):
        bootstrap([1, math.nan, 3, 4, 5], [1, 2, 3, 4, 5])


def test_images_of_one_group_are_drawn_together():
    """Each image ten times over says no more than once: the interval is that of the 60."""
    rng = np.random.default_rng(7)
    y, x = normal_pair(rng, 60, 0.8)
    alone = bootstrap(y, x, 300)
    names = [f"prompt {index}" for index in np.repeat(np.arange(60), 10)]
    copies = np.repeat(y, 10), np.repeat(x, 10)
    grouped, ungrouped = bootstrap(*copies, 300, groups=names), bootstrap(*copies, 300)
    width = {
        name: i.srcc.high - i.srcc.low
        for name, i in {"alone": alone, "grouped": grouped, "ungrouped": ungrouped}.items()
    }
    assert width["grouped"] == pytest.approx(width["alone"], rel=0.15)
    assert width["ungrouped"] < 0.5 * width["alone"]


def test_one_group_alone_gives_no_interval():
    y, x = normal_pair(np.random.default_rng(1), 20, 0.8)
    found = bootstrap(y, x, 20, groups=["a prompt"] * 20)
    assert math.isnan(found.srcc.low)


def test_resamples_of_too_few_images_do_not_count():
    """Of two prompts, with 5 images and with 1, a resample may be the latter twice."""
    y, x = normal_pair(np.random.default_rng(2), 6, 0.8)
    found = bootstrap(y, x, 40, groups=["a"] * 5 + ["b"])
    assert found.srcc.low <= found.srcc.high
