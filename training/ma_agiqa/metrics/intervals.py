"""Confidence intervals of the metrics, by resampling the images (percentile bootstrap).

The images of a test set are a sample: another one would have given other numbers. Each resample
draws N of the N images with replacement and is measured like the whole set, with a logistic curve
of its own; the interval holds the middle 95 % of what was found. Intervals of two methods on the
same images may overlap although one is better on nearly every resample: they say how far a number
carries, they do not compare.

Few images give too narrow an interval of RMSE, because the curve follows each resample: on a
bivariate normal of correlation 0.8 it holds the truth in 76 % of 50-image sets, 89 % of 100, 91 %
of 200 and 98 % of 600; those of SRCC and KRCC in 93 % or more throughout.

The errors of images that were made from one prompt are alike: 60 prompts with 10 images each say
less than 600 images. Where groups are known, a resample draws whole groups.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ma_agiqa.errors import ConfigError
from ma_agiqa.metrics.agreement import (
    MIN_SAMPLES,
    evaluate,
    fit_logistic,
    measure,
    straight_curve,
)

RESAMPLES = 1000
"""Number of resamples by default."""

ENOUGH_IMAGES = 200
"""Below this many images the interval of RMSE is too narrow."""

_LEVEL = 0.95
_METRICS = ("srcc", "plcc", "krcc", "rmse", "plcc_raw")


@dataclass(frozen=True)
class Interval:
    """Lowest and highest plausible value; NaN where the metric is not defined."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """One interval per metric of `agreement.Metrics`, and how they were made.

    Attributes:
        srcc, plcc, krcc, rmse, plcc_raw: the intervals.
        level: share of the resamples inside each interval.
        resamples: number of resamples.
        seed: seed of the drawing.
    """

    srcc: Interval
    plcc: Interval
    krcc: Interval
    rmse: Interval
    plcc_raw: Interval
    level: float
    resamples: int
    seed: int


def bootstrap(
    labels: ArrayLike,
    predictions: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Intervals:
    """Find the 95 % interval of every metric.

    Takes about 2 ms per resample of 600 images. The curve of a resample starts from that of the
    whole set.

    Args:
        labels: MOS per image (N,).
        predictions: predicted score per image (N,), any scale.
        resamples: number of resamples, at least 2.
        seed: the same one gives the same intervals.
        groups: name of the group of each image (N,), such as its prompt; None if each image stands
            alone.

    Raises:
        ConfigError: too few resamples.
        DataError: what `agreement.evaluate` refuses.
    """
    if resamples < 2:
        raise ConfigError(f"{resamples} resamples give no interval; {RESAMPLES} are usual.")
    whole = evaluate(labels, predictions)  # refuses what cannot be measured
    y, x = (np.asarray(values, np.float64).reshape(-1) for values in (labels, predictions))
    curve = fit_logistic(y, x)
    if curve is None and not np.isnan(whole.srcc):
        curve = straight_curve(y, x)

    names, place = np.unique(range(len(y)) if groups is None else groups, return_inverse=True)
    order = np.argsort(place, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(place))[:-1])

    def statistic(drawn: NDArray[np.int64]) -> list[float]:
        rows = np.concatenate([members[index] for index in drawn])
        if len(rows) < MIN_SAMPLES:  # small groups alone
            return [np.nan] * len(_METRICS)
        found = measure(y[rows], x[rows], curve)
        return [getattr(found, name) for name in _METRICS]

    if len(names) < 2:
        nothing = {name: Interval(np.nan, np.nan) for name in _METRICS}
        return Intervals(**nothing, level=_LEVEL, resamples=resamples, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # all values are equal
        found = stats.bootstrap(
            (np.arange(len(names)),),
            statistic,
            vectorized=False,
            n_resamples=resamples,
            method="percentile",
            rng=seed,
        )
    intervals = dict(zip(_METRICS, map(_interval, found.bootstrap_distribution), strict=True))
    return Intervals(**intervals, level=_LEVEL, resamples=resamples, seed=seed)


def _interval(values: NDArray[np.float64]) -> Interval:
    """The middle of the values (R,); a resample in which the metric is not defined is left out."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return Interval(np.nan, np.nan)
    tail = (1 - _LEVEL) / 2
    return Interval(*map(float, np.quantile(defined, (tail, 1 - tail))))
