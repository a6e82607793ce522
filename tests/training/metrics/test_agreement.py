"""Metrics against the official code's numbers (golden/metrics.json), and their edges."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ma_agiqa.errors import DataError
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


def test_the_fit_finds_its_optimum_on_any_scale():
    rng = np.random.default_rng(5)
    mos = rng.uniform(0.5, 4.5, 300)
    scores = 1 / (1 + np.exp(-(mos - 2.5) / 0.6)) + rng.normal(0, 0.02, 300)
    near, far = evaluate(mos, scores), evaluate(mos, 900 * scores - 4000)
    assert (far.plcc, far.rmse) == pytest.approx((near.plcc, near.rmse), abs=1e-6)
    assert far.srcc == pytest.approx(near.srcc, abs=1e-12)
    assert near.plcc > 0.97


def test_without_convergence_a_straight_line_is_used(monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise RuntimeError("Number of calls to function has reached maxfev")

    monkeypatch.setattr("scipy.optimize.curve_fit", fails)
    labels = np.array([1.0, 2.1, 2.9, 4.2, 5.0])
    found = evaluate(labels, 2 * labels - 7)
    assert not found.logistic_fitted
    assert found.plcc == pytest.approx(1.0)
    assert found.rmse == pytest.approx(0.0, abs=1e-9)
    assert "straight line" in caplog.text


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
