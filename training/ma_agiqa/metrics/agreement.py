"""Agreement between predicted and human scores, as the paper reports it (§4.1).

    SRCC, KRCC       rank correlations (Spearman, Kendall tau-b) of the raw predictions
    PLCC, RMSE       Pearson correlation and root mean square error after the predictions went
                     through a logistic curve with four parameters, fitted to the labels
    ..._raw, bias    of the predictions as they are, which is what a server gives

The paper spells KRCC "Kullback-Leibler Correlation Coefficient"; its code computes Kendall's tau.
PLCC after the fit is positive whatever the direction of the predictions: PLCC raw has the sign.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from ma_agiqa.errors import DataError

MIN_SAMPLES = 5
"""Fewest samples that are measured: one more than the curve has parameters."""

_OFFICIAL_WIDTH = 0.5  # of the curve from which the official code starts to fit
_ROUGHLY, _EXACTLY = (50, 1e-4), (2000, 1.5e-8)  # evaluations and tolerance of a fit

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
        logistic_fitted: False if no curve fits better than a straight line by least squares, from
            which PLCC and RMSE then come.
        rmse_raw, mae_raw: root mean square and mean absolute error without the fit, in units of
            MOS; meaningful for predictions on the scale of the labels.
        bias: mean of prediction - label.
    """

    srcc: float
    plcc: float
    krcc: float
    rmse: float
    plcc_raw: float
    count: int
    logistic_fitted: bool
    rmse_raw: float
    mae_raw: float
    bias: float

    def to_dict(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


def logistic(x: ArrayLike, top: float, bottom: float, center: float, width: float) -> _Array:
    """The four-parameter curve: `bottom + (top - bottom) / (1 + exp(-(x - center) / |width|))`."""
    return bottom + (top - bottom) * special.expit((np.asarray(x) - center) / abs(width))


def fit_logistic(labels: ArrayLike, predictions: ArrayLike) -> Curve | None:
    """Fit `logistic` to map predictions to labels, by least squares.

    Both are standardized first, so that the result does not depend on their scales. The fit starts
    several times (where the official code starts, from steeper and flatter curves in either
    direction, and from the straight line, which is the limit of flat curves); the best result
    counts.

    Args:
        labels: MOS per image (N,).
        predictions: predicted score per image (N,), any scale.

    Returns:
        (top, bottom, center, width), or None if all labels or predictions are equal, or if no curve
        is as good as a straight line.
    """
    given_y, given_x = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if _is_constant(given_y) or _is_constant(given_x):
        return None
    y, x = _Standardized.of(given_y), _Standardized.of(given_x)
    roughly = [_least_squares(y, x, start, *_ROUGHLY) for start in _starts(y, x)]
    nearest = sorted(roughly, key=lambda curve: _error(y, x, curve))[:2]
    return _better_than_line(y, x, [_least_squares(y, x, c, *_EXACTLY) for c in nearest])


def straight_curve(labels: ArrayLike, predictions: ArrayLike) -> Curve:
    """A logistic so flat that it is nearly the straight line of least squares.

    Args:
        labels, predictions: (N,), neither all equal.
    """
    y, x = (_Standardized.of(np.asarray(v, np.float64)) for v in (labels, predictions))
    *_, flat = _starts(y, x)
    return _rescaled(flat, y, x)


def refine_logistic(y: _Array, x: _Array, curve: Curve) -> Curve | None:
    """Fit `logistic` to nearly the same data again, in few evaluations; see `fit_logistic`.

    Where the data look like a straight line, the parameters of the best curve grow without end;
    the error then falls by less than what matters for an interval.

    Args:
        y, x: labels and predictions (N,), neither all equal.
        curve: the curve to start from.
    """
    labels, predictions = _Standardized.of(y), _Standardized.of(x)
    start = _rescaled(curve, labels, predictions, inverse=True)
    return _better_than_line(
        labels, predictions, [_least_squares(labels, predictions, start, 100, 1e-6)]
    )


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
    if len(y) < MIN_SAMPLES:
        raise DataError(f"{len(y)} samples; the logistic fit needs at least {MIN_SAMPLES}.")
    found = measure(y, x)
    if math.isnan(found.srcc):
        constant = "predictions" if _is_constant(x) else "labels"
        _logger.warning("All %d %s are equal: correlations are not defined.", len(y), constant)
    elif not found.logistic_fitted:
        _logger.warning("No logistic curve fits better than a straight line, which is used.")
    return found


def measure(y: _Array, x: _Array, start: Curve | None = None) -> Metrics:
    """Compare predictions x (N,) with labels y (N,), both finite; see `evaluate`.

    Args:
        y, x: labels and predictions.
        start: logistic curve of nearly the same data, which is refined instead of fitted.
    """
    errors = x - y
    raw = (_rmse(x, y), float(np.abs(errors).mean()), float(errors.mean()))
    if _is_constant(x) or _is_constant(y):
        rmse = _rmse(np.full_like(y, y.mean()), y)  # the best any curve could do
        nan = math.nan
        return Metrics(nan, nan, nan, rmse, nan, len(y), False, *raw)
    curve = fit_logistic(y, x) if start is None else refine_logistic(y, x, start)
    fitted = _line(y, x) if curve is None else logistic(x, *curve)
    return Metrics(
        srcc=float(stats.spearmanr(x, y).statistic),
        plcc=_pearson(fitted, y),
        krcc=float(stats.kendalltau(x, y).statistic),
        rmse=_rmse(fitted, y),
        plcc_raw=_pearson(x, y),
        count=len(y),
        logistic_fitted=curve is not None,
        rmse_raw=raw[0],
        mae_raw=raw[1],
        bias=raw[2],
    )


@dataclass(frozen=True)
class _Standardized:
    """Values of mean 0 and deviation 1: (what was given - center) / spread."""

    values: _Array
    center: float
    spread: float

    @classmethod
    def of(cls, given: _Array) -> "_Standardized":
        center = float(given.mean())
        largest = float(np.abs(given - center).max())  # first, as squares could be too large
        spread = largest * float(((given - center) / largest).std())
        return cls((given - center) / spread, center, spread)


def _better_than_line(y: _Standardized, x: _Standardized, curves: Sequence[Curve]) -> Curve | None:
    """The best of the curves, in the units that were given; None if a straight line is better."""
    best = min(curves, key=lambda curve: _error(y, x, curve))
    if not _error(y, x, best) <= _rmse(_line(y.values, x.values), y.values) * (1 + 1e-9):
        return None
    return _rescaled(best, y, x)


def _rescaled(curve: Curve, y: _Standardized, x: _Standardized, inverse: bool = False) -> Curve:
    """A curve between standardized values as one between those that were given, or the inverse."""
    top, bottom, center, width = curve
    if inverse:
        ends = ((end - y.center) / y.spread for end in (top, bottom))
        return (*ends, (center - x.center) / x.spread, width / x.spread)
    ends = (end * y.spread + y.center for end in (top, bottom))
    return (*ends, center * x.spread + x.center, width * x.spread)


def _error(y: _Standardized, x: _Standardized, curve: Curve) -> float:
    found = _rmse(logistic(x.values, *curve), y.values)
    return found if math.isfinite(found) else math.inf


def _starts(y: _Standardized, x: _Standardized) -> Iterator[Curve]:
    """Curves to start from, in standardized units."""
    high, low = float(y.values.max()), float(y.values.min())
    slope = float(y.values @ x.values) / len(x.values)
    yield high, low, 0.0, _OFFICIAL_WIDTH / x.spread
    ends = (high, low) if slope >= 0 else (low, high)
    quarters = np.quantile(x.values, (0.25, 0.5, 0.75))
    typical = max(float(quarters[2] - quarters[0]) / 2, 1e-6)  # outliers do not count
    for width in (0.5, 0.1, 2.0):
        yield (*ends, 0.0, width)
        yield (*ends, float(quarters[1]), width * typical)
    flat = 1e3 * float(np.abs(x.values).max())
    yield 2 * flat * slope, -2 * flat * slope, 0.0, flat


def _least_squares(
    y: _Standardized, x: _Standardized, start: Curve, evaluations: int, tolerance: float
) -> Curve:
    """Where the least squares end that begin at a curve."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # the limit was reached
        found, _ = optimize.leastsq(
            lambda curve: logistic(x.values, *curve) - y.values,
            start,
            Dfun=lambda curve: _slopes(x.values, *curve),
            col_deriv=True,
            maxfev=evaluations,
            ftol=tolerance,
        )
    return tuple(map(float, found))


def _slopes(x: _Array, top: float, bottom: float, center: float, width: float) -> _Array:
    """Derivatives of `logistic` by its parameters, (4, N)."""
    z = (x - center) / abs(width)
    rise = special.expit(z)
    slope = (bottom - top) * rise * (1 - rise) / abs(width)
    return np.stack([rise, 1 - rise, slope, slope * z * np.sign(width)])


def _line(y: _Array, x: _Array) -> _Array:
    """The straight line through x (N,) that is nearest to y (N,)."""
    u = _Standardized.of(x).values
    return y.mean() + u * float(u @ (y - y.mean())) / len(u)


def _is_constant(values: _Array) -> bool:
    """Whether all values are equal, but for rounding of their last bits."""
    largest = np.abs(values).max()
    return bool(largest == 0 or np.ptp(values / largest) < 1e-13)


def _checked(values: ArrayLike | Sequence[float], name: str) -> _Array:
    array = np.asarray(values, np.float64).reshape(-1)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"{name}[{bad[0]}] is {array[bad[0]]}; every value must be finite.")
    return array


def _pearson(a: _Array, b: _Array) -> float:
    if _is_constant(a):  # the fitted curve can be flat where the predictions say nothing
        return math.nan
    return float(_Standardized.of(a).values @ _Standardized.of(b).values) / len(a)


def _rmse(a: _Array, b: _Array) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
