"""How often a scorer prefers the less damaged of two versions of a picture.

Needs no ratings: every picture is damaged in each way at several strengths, and of each pair of
versions, the picture itself among them, the weaker damage ought to score higher. An equal score is
not an order. The intervals hold the middle 95 % of bootstrap resamples of the pictures, not of the
pairs: pairs of one picture fail together.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ma_agiqa.data.degraded import DEGRADATIONS, Picture, degrade
from ma_agiqa.errors import ConfigError, DataError, ImageError
from ma_agiqa.images.views import decode

STRENGTHS = (0.12, 0.35, 0.6, 0.9)
"""Strengths of each degradation by default."""

PRISTINE = "none"
"""Name, in tables, of what was done to the picture itself."""

_PAIRS = ["picture", "degradation", "pairs", "ordered", "reversed"]
_BATCH_SIZE = 16
_RESAMPLES = 1000

Score = Callable[[Sequence[Picture]], NDArray[np.floating]]
"""Pictures to their scores, one each."""


def score_versions(
    score: Score,
    paths: Iterable[Path],
    degradations: Sequence[str] = tuple(DEGRADATIONS),
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> pd.DataFrame:
    """Score each picture and its damaged versions.

    Args:
        score: the scorer.
        paths: image files.
        degradations: keys of `DEGRADATIONS`.
        strengths: above 0 and up to 1, each once.
        seed: decides, with a picture's name, where and in which way it is damaged.

    Returns:
        Columns picture, degradation, strength (0 for the picture itself) and score.

    Raises:
        ConfigError: an unknown degradation or a strength out of range.
        DataError: no picture, or one that cannot be read.
    """
    if len(set(strengths)) != len(strengths):
        raise ConfigError(f"The strengths {list(strengths)} are not all different.")
    rows: list[tuple[str, str, float, float]] = []
    for path in paths:
        try:
            picture = decode(path.read_bytes())
        except (OSError, ImageError) as error:
            raise DataError(f"{path} cannot be scored: {error}") from error
        done = [(PRISTINE, 0.0), *((name, s) for name in degradations for s in strengths)]
        for start in range(0, len(done), _BATCH_SIZE):
            part = done[start : start + _BATCH_SIZE]
            versions = [_version(picture, path.name, *damage, seed) for damage in part]
            scores = score(versions)
            rows += [(str(path), *damage, float(s)) for damage, s in zip(part, scores, strict=True)]
    if not rows:
        raise DataError("There are no pictures to damage. Name image files or a folder of them.")
    return pd.DataFrame(rows, columns=["picture", "degradation", "strength", "score"])


def count_pairs(scores: pd.DataFrame) -> pd.DataFrame:
    """Count the pairs of versions of each picture that are ordered correctly.

    Args:
        scores: as `score_versions` gives them.

    Returns:
        Columns picture, degradation, pairs, ordered, and reversed: whether the strongest damage
        scores as high as the picture itself, or higher.
    """
    rows = []
    for picture, versions in scores.groupby("picture", sort=False):
        pristine = versions[versions.degradation == PRISTINE]
        for name, damaged in versions.drop(pristine.index).groupby("degradation", sort=False):
            by_strength = [*pristine.score, *damaged.sort_values("strength").score]
            pairs = [weak > strong for weak, strong in combinations(by_strength, 2)]
            failed = not by_strength[0] > by_strength[-1]
            rows.append((picture, name, len(pairs), sum(pairs), failed))
    return pd.DataFrame(rows, columns=_PAIRS)


def ordering_table(pairs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Summarize the pairs of each degradation, and of all.

    Args:
        pairs: as `count_pairs` gives them.
        seed: seed of the resampling.

    Returns:
        Columns degradation ("all" in the last row), pairs, ordered (share in 0-1), low and high
        (its 95 % interval), and reversed (share of the pictures).
    """
    kinds = [*pairs.degradation.unique()]
    parts = [(kind, pairs[pairs.degradation == kind]) for kind in kinds] + [("all", pairs)]
    return pd.DataFrame([_summary(kind, part, seed) for kind, part in parts])


def _summary(kind: str, part: pd.DataFrame, seed: int) -> dict[str, object]:
    sums = part.groupby("picture")[["ordered", "pairs"]].sum().to_numpy(float)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))
    ordered, count = sums[drawn].sum(axis=1).T
    low, high = np.quantile(ordered / count, [0.025, 0.975])
    share = sums[:, 0].sum() / sums[:, 1].sum()
    return {
        "degradation": kind,
        "pairs": int(sums[:, 1].sum()),
        "ordered": float(share),
        "low": float(low),
        "high": float(high),
        "reversed": float(part["reversed"].mean()),
    }


def _version(picture: Picture, key: str, name: str, strength: float, seed: int) -> Picture:
    if name == PRISTINE:
        return picture
    rng = np.random.default_rng([seed, zlib.crc32(f"{key}/{name}".encode())])
    return degrade(picture, name, strength, rng)
