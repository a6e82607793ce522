"""Agreement between predicted and human scores, as the paper reports it (§4.1).

    SRCC, KRCC   rank correlations (Spearman, Kendall tau-b) of the raw predictions
    PLCC, RMSE   Pearson correlation and root mean square error after the predictions went through
                 a logistic curve with four parameters, fitted to the labels
    PLCC (raw)   Pearson correlation without that fit

The paper spells KRCC "Kullback-Leibler Correlation Coefficient"; its code computes Kendall's tau.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from ma_agiqa.errors import DataError

START_WIDTH = 0.5
"""Width of the curve from which the fit starts, as in the official code."""

_MAX_EVALUATIONS = 20_000
_MIN_SAMPLES = 5  # one more than the curve has parameters

_logger = logging.getLogger(__name__)

_Array = NDArray[np.float64]

Curve = tuple[float, ...]
"""Parameters of `logistic`: top, bottom, center, width."""


@dataclass(frozen=True)
class Metrics:
    """The numbers of one evaluation.

    Attributes:
        srcc, plcc, krcc: in -1..1; NaN when all predictions, or all labels, are equal.
        rmse: in units of MOS.
        plcc_raw: PLCC without the logistic fit.
        count: number of samples; all that were given.
        logistic_fitted: False if the curve cannot be fitted; PLCC and RMSE then come from a
            straight line fitted by least squares.
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


def fit_logistic(labels: ArrayLike, predictions: ArrayLike) -> Curve | None:
    """Fit `logistic` to map predictions to labels.

    Starts where the official code starts (highest and lowest label, mean prediction, width 0.5),
    and again with that width in units of the predictions' spread, for scores on another scale; the
    better result counts.

    Args:
        labels: MOS per image (N,).
        predictions: predicted score per image (N,), any scale.

    Returns:
        (top, bottom, center, width), or None if all labels or predictions are equal, or if the
        least squares do not converge.
    """
    y, x = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if np.ptp(y) == 0 or np.ptp(x) == 0:
        return None
    widths = (START_WIDTH, START_WIDTH * x.std() / y.std())
    starts = [(y.max(), y.min(), x.mean(), width) for width in widths]
    found = [curve for begin in starts if (curve := _least_squares(y, x, begin)) is not None]
    return min(found, key=lambda curve: _rmse(logistic(x, *curve), y), default=None)


def refine_logistic(y: _Array, x: _Array, curve: Curve) -> Curve:
    """Fit `logistic` to nearly the same data again, in at most 100 evaluations.

    Where the data look like a straight line, the parameters of the best curve grow without end;
    the error then falls by less than what matters for an interval.

    Args:
        y, x: labels and predictions (N,).
        curve: the curve to start from.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # the limit was reached
        found, _ = optimize.leastsq(
            lambda curve, *data: logistic(x, *curve) - y,
            curve,
            Dfun=lambda curve, *data: _slopes(x, *curve),
            col_deriv=True,
            maxfev=100,
            ftol=1e-6,
        )
    return tuple(map(float, found))


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
    found = measure(y, x)
    if math.isnan(found.srcc):
        constant = "predictions" if np.ptp(x) == 0 else "labels"
        _logger.warning("All %d %s are equal: correlations are not defined.", len(y), constant)
    elif not found.logistic_fitted:
        _logger.warning("The logistic curve cannot be fitted; a straight line is used.")
    return found


def measure(y: _Array, x: _Array, start: Curve | None = None) -> Metrics:
    """Compare predictions x (N,) with labels y (N,), both finite; see `evaluate`.

    Args:
        y, x: labels and predictions.
        start: logistic curve of nearly the same data, which is refined instead of fitted.
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        rmse = _rmse(np.full_like(y, y.mean()), y)  # the best any curve could do
        return Metrics(math.nan, math.nan, math.nan, rmse, math.nan, len(y), logistic_fitted=False)
    curve = fit_logistic(y, x) if start is None else refine_logistic(y, x, start)
    fitted = logistic(x, *curve) if curve else np.polyval(np.polyfit(x, y, 1), x)
    return Metrics(
        srcc=float(stats.spearmanr(x, y).statistic),
        plcc=_pearson(fitted, y),
        krcc=float(stats.kendalltau(x, y).statistic),
        rmse=_rmse(fitted, y),
        plcc_raw=_pearson(x, y),
        count=len(y),
        logistic_fitted=curve is not None,
    )


def _slopes(x: _Array, top: float, bottom: float, center: float, width: float) -> _Array:
    """Derivatives of `logistic` by its parameters, (4, N)."""
    z = (x - center) / abs(width)
    rise = special.expit(z)
    slope = (bottom - top) * rise * (1 - rise) / abs(width)
    return np.stack([rise, 1 - rise, slope, slope * z * np.sign(width)])


def _least_squares(y: _Array, x: _Array, start: Curve) -> Curve | None:
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # A curve that fits exactly has no covariance; it is not asked for.
            warnings.simplefilter("ignore", optimize.OptimizeWarning)
            found, _ = optimize.curve_fit(logistic, x, y, p0=start, maxfev=_MAX_EVALUATIONS)
    except RuntimeError:
        return None
    return tuple(map(float, found)) if np.isfinite(found).all() else None


def _checked(values: ArrayLike | Sequence[float], name: str) -> _Array:
    array = np.asarray(values, np.float64).reshape(-1)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"{name}[{bad[0]}] is {array[bad[0]]}; every value must be finite.")
    return array


def _pearson(a: _Array, b: _Array) -> float:
    if np.ptp(a) == 0:  # the fitted curve can be flat where the predictions say nothing
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _rmse(a: _Array, b: _Array) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
