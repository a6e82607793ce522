"""How much better or worse one set of pictures is than another, from differences of pairs.

Differences of one prompt are alike, so prompts are drawn, not pairs: the interval is a bootstrap-t
over clusters (Efron and Tibshirani 1993, chapter 12; Cameron, Gelbach and Miller 2008,
"Bootstrap-based improvements for inference with clustered errors").

Looking at an interval again and again until it excludes 0 finds a difference where there is none.
`sequence` may be looked at after every prompt: it is an asymptotic confidence sequence
(Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, "Time-uniform central limit theory and
asymptotic confidence sequences", equation 8), wider than an interval for one look.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Verdict = Literal["not worse", "worse", "undecided"]

LEVEL = 0.95
"""Probability with which an interval holds the difference."""

RESAMPLES = 10_000
MIN_CLUSTERS = 5
"""With fewer clusters there is no interval."""

MIN_SEQUENCE = 30
"""With fewer clusters a sequence says nothing: its width relies on large numbers."""

_TYPICAL = 100  # clusters at which a sequence is narrowest
_CHUNK = 500  # resamples at a time, to bound the memory

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A picture of the base and one of the candidate that belong together.

    Attributes:
        name: what both have in common.
        cluster: pairs of one cluster, such as a prompt, are not independent.
        base, candidate: their paths.
        difference: MOS of the candidate - MOS of the base.
    """

    name: str
    cluster: str
    base: str
    candidate: str
    base_mos: float
    candidate_mos: float

    @property
    def difference(self) -> float:
        """MOS of the candidate - MOS of the base."""
        return self.candidate_mos - self.base_mos


@dataclass(frozen=True)
class Difference:
    """What many pairs say.

    Attributes:
        mean: mean difference, candidate - base, in MOS.
        low, high: ends of its interval; infinite where there are too few clusters.
        pairs, clusters: their numbers.
        wins, losses: shares of the pairs whose candidate is better, or worse.
    """

    mean: float
    low: float
    high: float
    pairs: int
    clusters: int
    wins: float
    losses: float

    @classmethod
    def of(cls, pairs: Sequence[Pair], *, sequential: bool = False, seed: int = 0) -> "Difference":
        """Measure at least one pair.

        Args:
            pairs: the pairs.
            sequential: whether the interval is one of `sequence`, which weights each cluster alike.
            seed: of the resampling.
        """
        values = np.array([pair.difference for pair in pairs])
        _, place = np.unique([pair.cluster for pair in pairs], return_inverse=True)
        sums: _Array = np.bincount(place, values).astype(np.float64)
        counts: _Array = np.bincount(place).astype(np.float64)
        if sequential:
            mean, low, high = sequence(sums / counts)
        else:
            mean, low, high = bootstrap(sums, counts, seed)
        equal = np.isclose(values, 0, rtol=0, atol=1e-6)
        return cls(
            mean,
            low,
            high,
            len(values),
            len(sums),
            wins=float((~equal & (values > 0)).mean()),
            losses=float((~equal & (values < 0)).mean()),
        )

    def verdict(self, margin: float) -> Verdict:
        """Say whether the candidate is worse than the base by more than a margin in MOS."""
        if self.low >= -margin:
            return "not worse"
        return "worse" if self.high < -margin else "undecided"


def bootstrap(
    sums: _Array, counts: _Array, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """The mean and its interval, from clusters.

    Args:
        sums, counts: sum and number of the values of each cluster, (C,).
        seed: of the resampling.
        resamples: number of times that C clusters are drawn.
    """
    clusters = len(sums)
    mean, error = _mean_and_error(np.ones((1, clusters)), sums, counts)
    if clusters < MIN_CLUSTERS:
        return float(mean[0]), -math.inf, math.inf
    rng = np.random.default_rng(seed)
    least_error = 1e-9 * float(np.abs(sums / counts).max()) + 1e-300
    ratios = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size)
        means, errors = _mean_and_error(drawn.astype(np.float64), sums, counts)
        off = means - mean
        off[np.abs(off) <= least_error] = 0.0
        # A resample whose differences are all the same is as far off as it can be.
        ratios.append(
            np.where(
                errors > least_error,
                off / np.maximum(errors, least_error),
                np.where(off == 0, 0.0, np.copysign(np.inf, off)),
            )
        )
    found = np.concatenate(ratios)
    if not found.any():  # every difference is the same
        return float(mean[0]), float(mean[0]), float(mean[0])
    tail = (1 - LEVEL) / 2
    least, most = np.quantile(found, (tail, 1 - tail), method="inverted_cdf")
    return float(mean[0]), float(mean[0] - most * error[0]), float(mean[0] - least * error[0])


def sequence(values: _Array) -> tuple[float, float, float]:
    """The mean of the values so far (N,), and an interval that may be looked at after each one.

    There is none while all values are the same: nothing is known yet about those that differ.
    """
    count, mean = len(values), float(values.mean())
    if count < MIN_SEQUENCE or np.ptp(values) <= 1e-9:
        return mean, -math.inf, math.inf
    alpha = 1 - LEVEL
    spread = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / _TYPICAL
    growth = count * spread + 1
    width = math.sqrt(2 * growth / (count**2 * spread) * math.log(math.sqrt(growth) / alpha))
    half = float(values.std(ddof=1)) * width
    return mean, mean - half, mean + half


def _mean_and_error(weights: _Array, sums: _Array, counts: _Array) -> tuple[_Array, _Array]:
    """Means and their standard errors when each cluster counts `weights` (R, C) times."""
    clusters, total = len(sums), weights @ counts
    mean = weights @ sums / total
    squares = (weights * (sums - mean[:, None] * counts) ** 2).sum(1)
    correction = clusters / max(clusters - 1, 1)
    return mean, np.sqrt(squares * correction) / total
