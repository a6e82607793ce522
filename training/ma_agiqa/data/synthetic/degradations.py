"""Graded damage, standing for what goes wrong in generated images (paper §1, Fig. 2).

Incoherence: `shuffle`, `swap`, `holes`. Signal: `blur`, `jpeg`, `noise`, `oversmooth`.
Each has four levels, 1 (slight) to 4 (ruinous).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from ma_agiqa.errors import ConfigError

LEVELS = (1, 2, 3, 4)

Picture = NDArray[np.uint8]


def _blur(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """Gaussian blur; sigma as a share of the shorter side."""
    sigma = (0.006, 0.011, 0.019, 0.033)[level - 1] * min(picture.shape[:2])
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def _jpeg(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """JPEG compression at a low quality."""
    quality = (22, 11, 6, 3)[level - 1]
    ok, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ConfigError(f"OpenCV could not write a JPEG of quality {quality}.")
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()


def _noise(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """Gaussian noise, gray or colored; standard deviation in gray values."""
    sigma = (14, 28, 50, 85)[level - 1]
    channels = int(rng.choice([1, 3]))
    noise = rng.normal(0, sigma, (*picture.shape[:2], channels))
    return np.rint(np.clip(picture + noise, 0, 255)).astype(np.uint8)


def _oversmooth(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """Bilateral filter, repeated: edges stay, texture goes, as in waxy generated skin."""
    for _ in range((1, 2, 4, 7)[level - 1]):
        picture = cv2.bilateralFilter(picture, 11, 30 + 18 * level, 6)
    return picture


def _shuffle(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """Move a share of the cells of a grid to each other's places."""
    cells, share = int(rng.integers(4, 7)), (0.15, 0.35, 0.65, 1.0)[level - 1]
    rows, columns = (np.linspace(0, n, cells + 1).astype(int) for n in picture.shape[:2])
    count = max(2, round(share * cells * cells))
    chosen = rng.permutation(cells * cells)[:count]
    h, w = int(np.diff(rows).min()), int(np.diff(columns).min())
    corners = [(rows[i // cells], columns[i % cells]) for i in chosen]
    result = picture.copy()
    for (to_row, to_column), (row, column) in zip(corners, corners[1:] + corners[:1], strict=True):
        result[to_row : to_row + h, to_column : to_column + w] = picture[
            row : row + h, column : column + w
        ]
    return result


def _swap(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """Exchange large pieces of the picture, some of them upside down."""
    rows, columns = picture.shape[:2]
    result = picture.copy()
    for _ in range((1, 2, 4, 8)[level - 1]):
        h, w = int(rows * rng.uniform(0.2, 0.34)), int(columns * rng.uniform(0.2, 0.34))
        tops, lefts = rng.integers(0, rows - h, 2), rng.integers(0, columns - w, 2)
        if abs(tops[0] - tops[1]) < h and abs(lefts[0] - lefts[1]) < w:  # keep them apart
            lefts[1] = (lefts[0] + columns // 2) % (columns - w)
        first, second = (
            (slice(top, top + h), slice(left, left + w))
            for top, left in zip(tops, lefts, strict=True)
        )
        piece = result[first].copy()
        result[first] = result[second][:: rng.choice([1, -1])]
        result[second] = piece[:: rng.choice([1, -1])]
    return result


def _holes(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """Cover a share of the area with flat, ragged holes."""
    rows, columns = picture.shape[:2]
    target = (0.05, 0.12, 0.24, 0.4)[level - 1]
    missing = np.zeros((rows, columns), np.uint8)
    while missing.mean() / 255 < target:
        angles = np.sort(rng.uniform(0, 2 * np.pi, 11))
        radius = min(rows, columns) * rng.uniform(0.05, 0.14) * rng.uniform(0.6, 1.2, 11)
        center = rng.random(2) * (columns, rows)
        outline = center + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(missing, [np.rint(outline).astype(np.int32)], 255)
    color = rng.choice([0, 128, 255]) if rng.random() < 0.7 else rng.integers(0, 256, 3)
    return np.where(missing[..., None] > 0, color, picture).astype(np.uint8)


DEGRADATIONS: Mapping[str, Callable[[Picture, int, np.random.Generator], Picture]] = (
    MappingProxyType(
        {
            "shuffle": _shuffle,
            "swap": _swap,
            "holes": _holes,
            "blur": _blur,
            "jpeg": _jpeg,
            "noise": _noise,
            "oversmooth": _oversmooth,
        }
    )
)
"""Name -> function of picture, level and randomness."""


def degrade(picture: Picture, name: str, level: int, rng: np.random.Generator) -> Picture:
    """Damage a picture.

    Args:
        picture: RGB uint8 (H, W, 3); not changed.
        name: a key of DEGRADATIONS.
        level: 1 (slight) to 4 (ruinous).
        rng: decides which parts are hit.

    Returns:
        RGB uint8 of the same shape.

    Raises:
        ConfigError: an unknown name or level.
    """
    if name not in DEGRADATIONS:
        raise ConfigError(f"Unknown degradation {name!r}; choose one of {', '.join(DEGRADATIONS)}.")
    if level not in LEVELS:
        raise ConfigError(f"Degradation level {level!r}; expected one of {LEVELS}.")
    return DEGRADATIONS[name](picture, level, rng)
