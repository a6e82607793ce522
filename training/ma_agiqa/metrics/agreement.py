"""Agreement between predicted and human scores, as the paper reports it (§4.1).

    SRCC, KRCC   rank correlations (Spearman, Kendall tau-b) of the raw predictions
    PLCC, RMSE   Pearson correlation and root mean square error after the predictions went through
                 a logistic curve with four parameters, fitted to the labels
    PLCC (raw)   Pearson correlation without that fit

The paper spells KRCC "Kullback-Leibler Correlation Coefficient"; its code computes Kendall's tau.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from ma_agiqa.errors import DataError

__all__ = ["START_WIDTH", "Metrics", "evaluate", "fit_logistic", "logistic"]

START_WIDTH = 0.5
"""Width of the curve from which the fit starts, as in the official code."""

_MAX_EVALUATIONS = 20_000
_MIN_SAMPLES = 5  # one more than the curve has parameters

_logger = logging.getLogger(__name__)

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """The numbers of one evaluation.

    Attributes:
        srcc, plcc, krcc: in -1..1; NaN when all predictions, or all labels, are equal.
        rmse: in units of MOS.
        plcc_raw: PLCC without the logistic fit.
        count: samples that were scored; never fewer than were given.
        logistic_fitted: False when the curve could not be fitted; PLCC and RMSE then come from
            a straight line fitted by least squares.
    """

    srcc: float
    plcc: float
    krcc: float
    rmse: float
    plcc_raw: float
    count: int
    logistic_fitted: bool

    def to_dict(self) -> dict[str, float]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def logistic(x: ArrayLike, top: float, bottom: float, center: float, width: float) -> _Array:
    """The four-parameter curve: `bottom + (top - bottom) / (1 + exp(-(x - center) / |width|))`."""
    return bottom + (top - bottom) * special.expit((np.asarray(x) - center) / abs(width))


def fit_logistic(labels: ArrayLike, predictions: ArrayLike) -> tuple[float, ...] | None:
    """Fit `logistic` to map predictions to labels.

    Starts where the official code starts: highest and lowest label, mean prediction, 0.5.

    Returns:
        (top, bottom, center, width), or None when the least squares do not converge.
    """
    y, x = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    start = (y.max(), y.min(), x.mean(), START_WIDTH)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # A curve that fits exactly has no covariance; it is not asked for.
            warnings.simplefilter("ignore", optimize.OptimizeWarning)
            found, _ = optimize.curve_fit(logistic, x, y, p0=start, maxfev=_MAX_EVALUATIONS)
    except RuntimeError as error:
        _logger.warning("The logistic curve was not fitted (%s); a straight line is used.", error)
        return None
    return tuple(map(float, found)) if np.isfinite(found).all() else None


def evaluate(labels: ArrayLike, predictions: ArrayLike) -> Metrics:
    """Compare predictions with labels, on every sample.

    Args:
        labels: MOS per image (N,).
        predictions: predicted score per image (N,), any scale.

    Raises:
        DataError: different lengths, fewer than 5 samples, or a value that is not finite.
    """
    y, x = _checked(labels, "labels"), _checked(predictions, "predictions")
    if len(y) != len(x):
        raise DataError(f"{len(y)} labels but {len(x)} predictions; give one of each per image.")
    if len(y) < _MIN_SAMPLES:
        raise DataError(f"{len(y)} samples; the logistic fit needs at least {_MIN_SAMPLES}.")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return _without_variation(y, x)
    parameters = fit_logistic(y, x)
    fitted = logistic(x, *parameters) if parameters else _straight_line(y, x)
    return Metrics(
        srcc=float(stats.spearmanr(x, y).statistic),
        plcc=_pearson(fitted, y),
        krcc=float(stats.kendalltau(x, y).statistic),
        rmse=_rmse(fitted, y),
        plcc_raw=_pearson(x, y),
        count=len(y),
        logistic_fitted=parameters is not None,
    )


def _checked(values: ArrayLike | Sequence[float], name: str) -> _Array:
    array = np.asarray(values, np.float64).reshape(-1)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"{name}[{bad[0]}] is {array[bad[0]]}; every value must be finite.")
    return array


def _without_variation(y: _Array, x: _Array) -> Metrics:
    constant = "predictions" if np.ptp(x) == 0 else "labels"
    _logger.warning("All %d %s are equal: correlations are not defined.", len(y), constant)
    nan = float("nan")
    rmse = _rmse(np.full_like(y, y.mean()), y)  # the best any curve could do
    return Metrics(nan, nan, nan, rmse, nan, len(y), logistic_fitted=False)


def _straight_line(y: _Array, x: _Array) -> _Array:
    slope, intercept = np.polyfit(x, y, 1)
    return slope * x + intercept


def _pearson(a: _Array, b: _Array) -> float:
    if np.ptp(a) == 0:  # the fitted curve can be flat where the predictions say nothing
        return float("nan")
    return float(stats.pearsonr(a, b).statistic)


def _rmse(a: _Array, b: _Array) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
