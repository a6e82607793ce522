"""Bootstrap intervals: equal to resampling by hand, right for ties, and covering the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.metrics import intervals
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


def by_hand(y, x, resamples, seed):
    """Every metric of every resample, from the resampled images one by one."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=resamples)
    rows = []
    for count in counts:
        drawn = np.repeat(np.arange(len(y)), count)
        found = evaluate(y[drawn], x[drawn])
        rows.append([getattr(found, name) for name in METRICS])
    return np.array(rows)


@pytest.mark.parametrize(
    ("make", "fit_tolerance"),
    [(bent, 0.01), (with_ties, 0.05)],  # the error of the second has several minima
)
def test_equal_to_measuring_each_resample_anew(make, fit_tolerance):
    y, x = make(np.random.default_rng(5), 120)
    found = bootstrap(y, x, resamples=60, seed=9)
    expected = np.quantile(by_hand(y, x, 60, 9), (0.025, 0.975), axis=0)
    # Rank and raw correlations are the same arithmetic. The curve is fitted by another method, to
    # a tolerance; that may move an end by a small share of the interval.
    for name, (low, high) in zip(METRICS, expected.T, strict=True):
        fitted = name in ("plcc", "rmse")
        tolerance = fit_tolerance * (high - low) if fitted else 1e-9
        interval = getattr(found, name)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=tolerance), name


def test_the_pairs_of_a_large_set_are_summed_in_blocks(monkeypatch):
    y, x = with_ties(np.random.default_rng(1), 90)
    whole = bootstrap(y, x, resamples=40)
    monkeypatch.setattr(intervals, "_PAIR_ROWS", 7)
    monkeypatch.setattr(intervals, "_CHUNK_VALUES", 900)  # 10 resamples at once
    assert bootstrap(y, x, resamples=40) == whole


def test_intervals_cover_the_truth_as_often_as_they_say():
    correlation, trials = 0.8, 100
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
        found = bootstrap(*normal_pair(rng, 200, correlation), resamples=200)
        for name, value in truth.items():
            interval = getattr(found, name)
            covered[name] += interval.low <= value <= interval.high
    # 95 of 100 expected; 88 is three standard deviations (2.2 each) below.
    assert all(88 <= count <= 100 for count in covered.values()), covered
    assert sum(covered.values()) < 5 * trials, "intervals that never miss are too wide"


def test_width_is_that_of_the_textbook():
    y, x = normal_pair(np.random.default_rng(3), 1000, 0.6)
    found = bootstrap(y, x).plcc_raw
    expected = stats.pearsonr(x, y).confidence_interval(0.95)  # Fisher's transformation
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.005)


def test_interval_holds_the_value_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    few, many = bent(rng, 60), bent(rng, 1500)
    wide, narrow = bootstrap(*few), bootstrap(*many)
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
    found = bootstrap(labels, np.full(40, 2.5))
    assert all(math.isnan(getattr(found, name).low) for name in METRICS if name != "rmse")
    assert found.rmse.low < labels.std() < found.rmse.high


def test_without_a_curve_a_straight_line_is_used(monkeypatch):
    y, x = normal_pair(np.random.default_rng(2), 80, 0.9)
    with_curve = bootstrap(y, -x, 200)
    monkeypatch.setattr(intervals, "fit_logistic", lambda labels, predictions: None)
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
