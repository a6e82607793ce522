"""Metrics against the official code's numbers (golden/metrics.json), and their edges."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ma_agiqa.errors import DataError
from ma_agiqa.metrics import agreement
from ma_agiqa.metrics.agreement import evaluate, fit_logistic, logistic

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics.json").read_text())


@pytest.mark.parametrize("case", sorted(GOLDEN))
def test_equal_to_the_official_numbers(case):
    expected = GOLDEN[case]["srcc_plcc_krcc_rmse"]
    found = evaluate(GOLDEN[case]["label"], GOLDEN[case]["prediction"])
    assert (found.srcc, found.plcc, found.krcc, found.rmse) == pytest.approx(expected, abs=1e-6)
    assert found.count == len(GOLDEN[case]["label"])
    assert found.logistic_fitted


def test_fit_recovers_the_curve_it_was_given():
    x = np.linspace(-3, 3, 200)
    y = logistic(x, 4.5, 0.5, 0.3, 0.8)
    top, bottom, center, width = fit_logistic(y, x)
    assert (top, bottom, center, abs(width)) == pytest.approx((4.5, 0.5, 0.3, 0.8), abs=1e-5)


def test_a_monotonic_bend_costs_raw_plcc_but_not_the_fitted_one():
    x = np.linspace(-4, 4, 300)
    found = evaluate(logistic(x, 5, 0, 0, 0.4), x)
    assert found.srcc == pytest.approx(1.0)
    assert found.plcc == pytest.approx(1.0, abs=1e-6)
    assert found.plcc_raw < 0.95
    assert found.rmse < 1e-4


def test_logistic_does_not_overflow():
    with np.errstate(over="raise"):
        assert logistic([-1e6, 1e6], 5, 0, 0, 1e-3).tolist() == [0.0, 5.0]


def test_constant_predictions_have_no_correlation_and_the_rmse_of_the_mean():
    labels = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = evaluate(labels, [2.5] * 5)
    assert all(math.isnan(v) for v in (found.srcc, found.plcc, found.krcc, found.plcc_raw))
    assert found.rmse == pytest.approx(np.std(labels))
    assert not found.logistic_fitted


SCALES = [(1e-6, 0), (0.2, 0.5), (1, 0), (20, 0), (300, -4000), (1e4, 0), (-1, 0), (-20, 50)]


@pytest.mark.parametrize(("factor", "offset"), SCALES)
@pytest.mark.parametrize("mos_factor", [1, 20])
def test_no_scale_changes_what_the_fit_finds(factor, offset, mos_factor):
    rng = np.random.default_rng(5)
    mos = rng.uniform(0.5, 4.5, 300)
    scores = 1 / (1 + np.exp(-(mos - 2.5) / 0.6)) + rng.normal(0, 0.02, 300)
    near, far = evaluate(mos, scores), evaluate(mos_factor * mos, factor * scores + offset)
    assert far.logistic_fitted
    assert (far.plcc, far.rmse) == pytest.approx((near.plcc, mos_factor * near.rmse), rel=1e-5)
    assert far.srcc == pytest.approx(near.srcc * math.copysign(1, factor), abs=1e-12)
    assert near.plcc > 0.97


@pytest.mark.parametrize(("factor", "offset"), SCALES)
@pytest.mark.parametrize("count", [5, 8, 15, 60])
def test_no_fit_is_worse_than_a_straight_line(factor, offset, count):
    rng = np.random.default_rng(count)
    for _ in range(4):
        mos = np.clip(rng.normal(50, 20, count), 0, 100)
        found = evaluate(mos, factor * (mos / 20 + rng.normal(0, 0.4, count)) + offset)
        assert found.plcc >= abs(found.plcc_raw) - 1e-9


def test_one_outlier_does_not_spoil_the_fit():
    x = np.linspace(-2, 2, 100)
    y = logistic(x, 5, 0, 0, 0.4)
    assert evaluate(y, np.where(np.arange(100) == 99, 1e4, x)).plcc > 0.999


def test_without_a_better_curve_a_straight_line_is_used(monkeypatch, caplog):
    monkeypatch.setattr(agreement, "_least_squares", lambda *_: (1.0, 1.0, 0.0, 1.0))
    labels = np.array([1.0, 2.1, 2.9, 4.2, 5.0])
    found = evaluate(labels, 2 * labels - 7)
    assert not found.logistic_fitted
    assert found.plcc == pytest.approx(1.0)
    assert found.rmse == pytest.approx(0.0, abs=1e-9)
    assert "straight line" in caplog.text


def test_the_errors_of_the_scores_as_they_are():
    found = evaluate([1, 2, 3, 4, 5], [2, 2, 4, 4, 8])
    assert (found.rmse_raw, found.mae_raw, found.bias) == pytest.approx((11**0.5 / 5**0.5, 1, 1))


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4], "5 labels but 4 predictions"),
        ([1, 2, 3, 4], [1, 2, 3, 4], "at least 5"),
        ([1, 2, float("nan"), 4, 5], [1, 2, 3, 4, 5], r"labels\[2\] is nan"),
        ([1, 2, 3, 4, 5], [1, 2, 3, float("inf"), 5], r"predictions\[3\] is inf"),
    ],
)
def test_bad_input(labels, predictions, message):
    with pytest.raises(DataError, match=message):
        evaluate(labels, predictions)
