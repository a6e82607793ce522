"""Graded damage, standing for what goes wrong in generated images and in files of them.

Every degradation takes a strength above 0 and up to 1 (ruinous) and is made at the picture's own
size: lengths are shares of its mean side, the square root of its area. With the same random
numbers a stronger version changes at least what a weaker one changes.
"""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ma_agiqa.errors import ConfigError

Picture = NDArray[np.uint8]
"""RGB, uint8 (height, width, 3)."""


def _between(strength: float, weakest: float, strongest: float) -> float:
    """A value that grows, or falls, by the same factor with every step of the strength."""
    return weakest * (strongest / weakest) ** strength


def _side(picture: Picture) -> float:
    return float(np.sqrt(picture.shape[0] * picture.shape[1]))


def _rounded(pixels: NDArray[np.floating]) -> Picture:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def _blur(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Gaussian blur, with a standard deviation of 0.3 pixels and 0.1 to 2.5 % of the side."""
    sigma = 0.3 + _between(strength, 0.001, 0.025) * _side(picture)
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def _motion(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Blur along a line of 1 pixel and 0.4 to 9 % of the side."""
    length = 1 + _between(strength, 0.004, 0.09) * _side(picture)
    angle, size = rng.uniform(0, np.pi), 2 * int(length / 2 + 1) + 1
    kernel = np.zeros((size * 4, size * 4), np.float32)  # drawn finely, then averaged
    reach = 2 * length * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(map(int, np.rint(2 * size + sign * reach))) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 4)
    kernel = kernel.reshape(size, 4, size, 4).mean((1, 3))
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def _defocus(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Blur by a disc with a radius of 0.5 pixels and 0.2 to 4 % of the side."""
    radius = 0.5 + _between(strength, 0.002, 0.04) * _side(picture)
    reach = int(np.ceil(radius))
    distance = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    kernel = np.clip(radius + 0.5 - distance, 0, 1)
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


_SHRINK = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_ENLARGE = (cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_LANCZOS4, cv2.INTER_NEAREST)


def _downscale(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Scale down, to a side of 280 down to 28 pixels at most, and up again."""
    height, width = picture.shape[:2]
    share = min(_between(strength, 300, 28) / _side(picture), 0.8 - 0.2 * strength)
    small = (max(2, round(width * share)), max(2, round(height * share)))
    down, up = _SHRINK[rng.integers(len(_SHRINK))], _ENLARGE[rng.integers(len(_ENLARGE))]
    return cv2.resize(
        cv2.resize(picture, small, interpolation=down), (width, height), interpolation=up
    )


def _noise(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Normal noise of 3 to 90 gray values, gray or colored, fine or coarse."""
    sigma = _between(strength, 3, 90)
    height, width = picture.shape[:2]
    channels, grain = int(rng.choice([1, 3])), int(rng.choice([1, 1, 1, 2, 3]))
    shape = (height // grain + 1, width // grain + 1, channels)
    noise = rng.standard_normal(shape, np.float32).repeat(grain, 0).repeat(grain, 1)
    return _rounded(picture + sigma * noise[:height, :width])


def _jpeg(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """JPEG compression at a quality of 50 down to 2."""
    return recode(picture, "JPEG", quality=round(_between(strength, 50, 2)))


def _webp(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """WebP compression at a quality of 40 down to 0, the strongest on a picture half as large."""
    quality = round(40 * (1 - strength))
    return recode(picture, "WEBP", quality=quality, method=2)


def recode(picture: Picture, codec: str, **options: object) -> Picture:
    """Write a picture with Pillow and read it again."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, codec, **options)
    return np.array(Image.open(file).convert("RGB"))


def _oversmooth(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Edge-preserving filter: texture goes, as in waxy generated skin."""
    sigma = _between(strength, 0.004, 0.03) * _side(picture)
    scale = max(1.0, sigma / 4)  # the filter is slow: it sees large pictures smaller
    size = tuple(max(2, round(n / scale)) for n in picture.shape[1::-1])
    smooth = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for _ in range(1 + round(3 * strength)):
        smooth = cv2.bilateralFilter(smooth, 9, 20 + 60 * strength, sigma / scale)
    if scale > 1:
        smooth = cv2.resize(smooth, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return smooth


def _color_cast(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Tint, fade and darken or brighten."""
    tint = rng.uniform(-1, 1, 3)
    tint -= tint.mean()
    tint *= 0.75 / np.abs(tint).max()
    pixels = picture * (1 + strength * tint)
    fade = strength * rng.uniform(0, 0.6)
    pixels = pixels * (1 - fade) + fade * rng.uniform(60, 200)
    return _rounded(
        255 * (np.clip(pixels, 0, 255) / 255) ** (1 + strength * rng.uniform(-0.5, 1.5))
    )


def _banding(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Keep 24 down to 2 levels of each channel."""
    steps = _between(strength, 24, 2) - 1
    return _rounded(np.rint(picture / 255 * steps) / steps * 255)


def _oversharpen(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Unsharp mask, 0.7 to 12 times the detail below 0.1 to 0.5 % of the side."""
    sigma = max(0.7, rng.uniform(0.001, 0.005) * _side(picture))
    soft = cv2.GaussianBlur(picture, (0, 0), sigma).astype(np.float32)
    return _rounded(picture + _between(strength, 0.7, 12) * (picture - soft))


def _oversaturate(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Saturation and contrast, as a generator makes them that was trained for a reward."""
    gray = picture.mean(axis=2, keepdims=True)
    pixels = gray + _between(strength, 1.3, 5) * (picture - gray)
    middle = picture.mean()
    return _rounded(middle + _between(strength, 1.1, 3) * (pixels - middle))


def _ringing(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Cut high frequencies off sharply: waves along edges."""
    rows, columns = picture.shape[:2]
    small = cv2.resize(picture, (columns + columns % 2, rows + rows % 2))
    cut = _between(strength, 100, 12) / _side(picture)  # cycles per pixel
    frequencies = np.hypot(np.fft.fftfreq(small.shape[0])[:, None], np.fft.rfftfreq(small.shape[1]))
    keep = frequencies < cut
    waves = [np.fft.irfft2(np.fft.rfft2(small[..., c]) * keep, small.shape[:2]) for c in range(3)]
    return _rounded(np.stack(waves, 2)[:rows, :columns])


def _holes(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Cover a share of 1 to 45 % with flat holes: ragged, rectangles or discs."""
    rows, columns = picture.shape[:2]
    missing = np.zeros((rows, columns), np.uint8)
    color = rng.choice([0, 128, 255]) if rng.random() < 0.7 else rng.integers(0, 256, 3)
    corners, size = int(rng.choice([4, 11, 32])), rng.uniform(0.05, 0.15)
    while missing.mean() / 255 < _between(strength, 0.01, 0.45):
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        if corners != 11:
            angles = (np.arange(corners) + 0.5) * 2 * np.pi / corners
        ragged = rng.uniform(0.6, 1.2, corners) if corners == 11 else np.ones(corners)
        radius = size * _side(picture) * rng.uniform(0.5, 1.0, 2) * ragged[:, None]
        center = rng.random(2) * (columns, rows)
        outline = center + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(missing, [np.rint(outline).astype(np.int32)], 255)
    return np.where(missing[..., None] > 0, color, picture).astype(np.uint8)


def _shuffle(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Move 5 to 100 % of the cells of a grid, 3 to 8 of them a side, to each other's places."""
    cells = int(rng.integers(3, 9))
    rows, columns = (np.linspace(0, n, cells + 1).astype(int) for n in picture.shape[:2])
    chosen = rng.permutation(cells * cells)[
        : max(2, round(_between(strength, 0.06, 1.0) * cells**2))
    ]
    h, w = int(np.diff(rows).min()), int(np.diff(columns).min())
    corners = [(rows[i // cells], columns[i % cells]) for i in chosen]
    result = picture.copy()
    for (to_row, to_column), (row, column) in zip(corners, corners[1:] + corners[:1], strict=True):
        result[to_row : to_row + h, to_column : to_column + w] = picture[
            row : row + h, column : column + w
        ]
    return result


def _swap(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Exchange 1 to 12 pairs of pieces of the picture, some of them upside down."""
    rows, columns = picture.shape[:2]
    result = picture.copy()
    for _ in range(round(_between(strength, 1, 12))):
        h, w = (int(n * rng.uniform(0.12, 0.3)) for n in (rows, columns))
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


def _repeat(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Paste one piece of the picture over it, 1 to 20 times."""
    rows, columns = picture.shape[:2]
    h, w = (int(n * rng.uniform(0.12, 0.25)) for n in (rows, columns))
    top, left = rng.integers(0, rows - h), rng.integers(0, columns - w)
    piece = picture[top : top + h, left : left + w]
    result = picture.copy()
    for _ in range(round(_between(strength, 1, 20))):
        top, left = rng.integers(0, rows - h), rng.integers(0, columns - w)
        result[top : top + h, left : left + w] = piece[:, :: rng.choice([1, -1])]
    return result


def _melt(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Smooth warp that moves pixels by up to 0.5 to 12 % of the side: melted structure."""
    rows, columns = picture.shape[:2]
    knots = int(rng.integers(5, 14))
    field = rng.uniform(-1, 1, (2, knots, knots)).astype(np.float32)
    reach = _between(strength, 0.006, 0.10) * _side(picture)
    y, x = (cv2.resize(f, (columns, rows), interpolation=cv2.INTER_CUBIC) * reach for f in field)
    grid_y, grid_x = np.mgrid[:rows, :columns].astype(np.float32)
    return cv2.remap(
        picture, grid_x + x, grid_y + y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


DEGRADATIONS: Mapping[str, Callable[[Picture, float, np.random.Generator], Picture]] = (
    MappingProxyType(
        {
            "blur": _blur,
            "motion": _motion,
            "defocus": _defocus,
            "downscale": _downscale,
            "noise": _noise,
            "jpeg": _jpeg,
            "webp": _webp,
            "oversmooth": _oversmooth,
            "color_cast": _color_cast,
            "banding": _banding,
            "oversharpen": _oversharpen,
            "oversaturate": _oversaturate,
            "ringing": _ringing,
            "holes": _holes,
            "shuffle": _shuffle,
            "swap": _swap,
            "repeat": _repeat,
            "melt": _melt,
        }
    )
)
"""Name -> function of picture, strength and randomness."""


def degrade(picture: Picture, name: str, strength: float, rng: np.random.Generator) -> Picture:
    """Damage a picture.

    Args:
        picture: is not changed.
        name: a key of DEGRADATIONS.
        strength: above 0, up to 1.
        rng: decides where and in which way; the same for comparable strengths.

    Returns:
        A picture of the same size.

    Raises:
        ConfigError: an unknown name, or a strength out of range.
    """
    if name not in DEGRADATIONS:
        raise ConfigError(f"Unknown degradation {name!r}; choose one of {', '.join(DEGRADATIONS)}.")
    if not 0 < strength <= 1:
        raise ConfigError(f"The strength of {name} is {strength}; it must be above 0, at most 1.")
    return DEGRADATIONS[name](picture, strength, rng)
