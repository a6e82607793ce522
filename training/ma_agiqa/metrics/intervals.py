"""Confidence intervals of the metrics, by resampling the images (percentile bootstrap).

The images of a test set are a sample: another one would have given other numbers. Each resample
draws N of the N images with replacement and is measured anew, the logistic curve included; the
interval holds the middle 95 % of what was found. Intervals of two methods on the same images may
overlap although one is better on nearly every resample: they say how far a number carries, they do
not compare.

Few images give too narrow an interval of RMSE, because the curve follows each resample: on a
bivariate normal of correlation 0.8 it holds the truth in 76 % of 50-image sets, 89 % of 100, 91 %
of 200 and 98 % of 600; those of SRCC and KRCC in 93 % or more throughout.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

A resample is kept as how often each image was drawn. So the images are sorted once for all
resamples, ties are counted rather than searched, and Kendall's sum over all pairs is a product of
matrices.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ma_agiqa.errors import ConfigError
from ma_agiqa.metrics.agreement import START_WIDTH, evaluate, fit_logistic
from ma_agiqa.metrics.logistic_refit import refit

__all__ = ["ENOUGH_IMAGES", "RESAMPLES", "Interval", "Intervals", "bootstrap"]

RESAMPLES = 1000
"""Resamples where nothing else is asked for."""

ENOUGH_IMAGES = 200
"""Below this many images the interval of RMSE is too narrow."""

_LEVEL = 0.95
_CHUNK_VALUES = 2**21  # counts held at once: 16 MiB as float64
_PAIR_ROWS = 256  # rows of the matrix of pairs held at once

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Lowest and highest plausible value; NaN where the metric is not defined."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """One interval per metric of `metrics.Metrics`, and how they were made.

    Attributes:
        srcc, plcc, krcc, rmse, plcc_raw: the intervals.
        level: share of the resamples inside each interval.
        resamples: how many were drawn.
        seed: of the drawing.
    """

    srcc: Interval
    plcc: Interval
    krcc: Interval
    rmse: Interval
    plcc_raw: Interval
    level: float
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def bootstrap(
    labels: ArrayLike, predictions: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Intervals:
    """Find the 95 % interval of every metric.

    Args:
        labels: MOS per image (N,).
        predictions: predicted score per image (N,), any scale.
        resamples: how many to draw; at least 2.
        seed: the same one gives the same intervals.

    Raises:
        ConfigError: too few resamples.
        DataError: what `metrics.evaluate` refuses.
    """
    if resamples < 2:
        raise ConfigError(f"{resamples} resamples give no interval; {RESAMPLES} are usual.")
    evaluate(labels, predictions)  # refuses what cannot be measured
    y, x = (np.asarray(values, np.float64).reshape(-1) for values in (labels, predictions))
    found = _measure(y, x, resamples, np.random.default_rng(seed))
    tail = (1 - _LEVEL) / 2
    intervals = {
        name: Interval(*map(float, _quantiles(values, (tail, 1 - tail))))
        for name, values in found.items()
    }
    return Intervals(**intervals, level=_LEVEL, resamples=resamples, seed=seed)


def _measure(
    y: _Array, x: _Array, resamples: int, rng: np.random.Generator
) -> Mapping[str, _Array]:
    """Every metric of every resample; NaN where it is not defined."""
    x_ties, y_ties, curve = _Ties(x), _Ties(y), None
    if np.ptp(x) and np.ptp(y):
        curve = fit_logistic(y, x)
    parts: list[dict[str, _Array]] = []
    for counts in _draw(len(y), resamples, rng):
        raw = _pearson(counts, x, y)
        plcc, rmse = _after_fit(counts, y, x, curve, raw)
        parts.append(
            {
                "srcc": _pearson(counts, x_ties.ranks(counts), y_ties.ranks(counts)),
                "plcc": plcc,
                "krcc": _kendall(counts, x, y, x_ties, y_ties),
                "rmse": rmse,
                "plcc_raw": raw,
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _draw(count: int, resamples: int, rng: np.random.Generator) -> Iterator[_Array]:
    """How often each image is in each resample (R, N), some resamples at a time."""
    step = max(1, _CHUNK_VALUES // count)
    shares = np.full(count, 1 / count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        yield rng.multinomial(count, shares, size=size).astype(np.float64)


class _Ties:
    """Values in order, equal ones together."""

    def __init__(self, values: _Array) -> None:
        distinct, self._group_of = np.unique(values, return_inverse=True)
        self._order = np.argsort(values, kind="stable")
        sizes = np.bincount(self._group_of, minlength=len(distinct))
        self._starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))

    def sizes(self, counts: _Array) -> _Array:
        """Members of each group of equal values in each resample, (R, groups)."""
        return np.add.reduceat(counts[:, self._order], self._starts, axis=1)

    def ranks(self, counts: _Array) -> _Array:
        """Rank of each image in each resample (R, N); equal values share their mean rank."""
        sizes = self.sizes(counts)
        middle = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
        return middle[:, self._group_of]

    def untied_pairs(self, counts: _Array) -> _Array:
        """Pairs of images whose values differ, in each resample (R,)."""
        total = counts.sum(axis=1)
        return (total**2 - (self.sizes(counts) ** 2).sum(axis=1)) / 2


def _kendall(counts: _Array, x: _Array, y: _Array, x_ties: _Ties, y_ties: _Ties) -> _Array:
    """Kendall's tau-b of each resample: agreeing less disagreeing pairs, over the untied ones."""
    narrow = counts.astype(np.float32)  # their sums stay below 2^24, where float32 is exact
    balance = np.zeros(len(counts))
    for start in range(0, len(x), _PAIR_ROWS):
        rows = slice(start, start + _PAIR_ROWS)
        agreement = np.sign(x[rows, None] - x[start:]) * np.sign(y[rows, None] - y[start:])
        pairs = np.triu(agreement, 1).astype(np.float32)  # each pair once: (rows, N - start)
        sums = narrow[:, start:] @ pairs.T  # (R, rows)
        balance += np.einsum("rn,rn->r", counts[:, rows], sums, dtype=np.float64)
    untied = x_ties.untied_pairs(counts) * y_ties.untied_pairs(counts)
    return _divide(balance, np.sqrt(untied))


def _pearson(counts: _Array, a: _Array, b: _Array) -> _Array:
    """Correlation of two values per image, (N,) or (R, N), in each resample (R,)."""
    total = counts.sum(axis=1)
    a = a - (_weigh(counts, a) / total)[:, None]
    b = b - (_weigh(counts, b) / total)[:, None]
    return _divide(
        _weigh(counts, a * b), np.sqrt(_weigh(counts, a**2)) * np.sqrt(_weigh(counts, b**2))
    )


def _weigh(counts: _Array, values: _Array) -> _Array:
    if values.ndim == 1:
        return counts @ values
    return np.einsum("rn,rn->r", counts, values)


def _after_fit(
    counts: _Array, y: _Array, x: _Array, curve: tuple[float, ...] | None, raw: _Array
) -> tuple[_Array, _Array]:
    """PLCC and RMSE of each resample after its own curve; after a straight line without one."""
    if curve is None:
        total = counts.sum(axis=1)
        variance = _weigh(counts, (y - (counts @ y / total)[:, None]) ** 2) / total
        return np.abs(raw), np.sqrt(variance * (1 - np.nan_to_num(raw) ** 2))
    _, _, center, width = curve
    starts = [(center, width), (float(x.mean()), START_WIDTH)]
    plcc, rmse = refit(counts, y, x, starts)
    return np.where(np.isnan(raw), np.nan, plcc), rmse


def _divide(above: _Array, below: _Array) -> _Array:
    """Quotients; NaN where nothing varies."""
    varies = below > 1e-12 * np.max(below, initial=0)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=varies)


def _quantiles(values: _Array, shares: tuple[float, float]) -> _Array:
    defined = values[np.isfinite(values)]
    return np.quantile(defined, shares) if len(defined) else np.full(2, np.nan)
