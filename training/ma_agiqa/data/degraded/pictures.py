"""The undamaged pictures: crops of photographs, and patterns that show nothing."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data.degraded.degradations import Picture

_SIDES = (384, 1536)  # pixels, square root of the area
_SHAPES = (1, 1, 1, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9, 9 / 16)
_SHARPEST = 0.6  # a crop is at least so much smaller than the photograph shows it
_LEAVES = 1200


def crop(photograph: Picture, rng: np.random.Generator) -> Picture:
    """Cut a part out of a photograph and give it a size that generated images have.

    The part is half to all of the photograph's height or width; it is never enlarged.
    """
    rows, columns = photograph.shape[:2]
    side, shape = np.exp(rng.uniform(*np.log(_SIDES))), float(rng.choice(_SHAPES))
    height, width = side / shape**0.5, side * shape**0.5
    scale = min(rows / height, columns / width) * rng.uniform(0.5, 1.0)  # photograph to crop
    h, w = int(height * scale), int(width * scale)
    top, left = rng.integers(0, rows - h + 1), rng.integers(0, columns - w + 1)
    part = photograph[top : top + h, left : left + w]
    shrink = min(1.0, scale * _SHARPEST)
    size = max(64, int(width * shrink)), max(64, int(height * shrink))
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA)


def _flat(side: int, rng: np.random.Generator) -> NDArray[np.floating]:
    return np.full((side, side, 3), rng.uniform(0, 255, 3))


def _gradient(side: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Colors of four corners, mixed."""
    return cv2.resize(rng.uniform(0, 255, (2, 2, 3)), (side, side))


def _fractal(side: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Noise whose amplitudes fall with the frequency, as those of photographs do."""
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    amplitudes = 1 / np.maximum(frequencies, 1 / side) ** rng.uniform(0.8, 1.6)
    phases = rng.uniform(0, 2 * np.pi, amplitudes.shape)
    field = np.fft.irfft2(amplitudes * np.exp(1j * phases), (side, side))[..., None]
    return 128 + field / field.std() * rng.uniform(15, 50, 3) + rng.uniform(-40, 40, 3)


def _leaves(side: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Discs over discs, of all sizes."""
    picture = np.zeros((side, side, 3), np.uint8)
    for _ in range(_LEAVES):
        center = rng.integers(0, side, 2).tolist()
        radius = int(side * 0.01 / rng.uniform(0.05, 1))
        cv2.circle(picture, center, radius, rng.uniform(0, 255, 3).tolist(), -1, cv2.LINE_AA)
    return picture.astype(np.float64)


def _noise(side: int, rng: np.random.Generator) -> NDArray[np.floating]:
    return rng.normal(rng.uniform(60, 200, 3), rng.uniform(20, 90), (side, side, 3))


PATTERNS: Mapping[str, Callable[[int, np.random.Generator], NDArray[np.floating]]] = (
    MappingProxyType(
        {
            "flat": _flat,
            "gradient": _gradient,
            "fractal": _fractal,
            "leaves": _leaves,
            "noise": _noise,
        }
    )
)
"""Name -> function of side and randomness; keys of `opinion.CONTENT`."""


def pattern(name: str, rng: np.random.Generator) -> Picture:
    """Draw a square picture that shows nothing.

    Args:
        name: a key of PATTERNS.
        rng: decides the side and what is drawn.
    """
    drawn = PATTERNS[name](int(rng.integers(384, 768)), rng)
    return np.rint(np.clip(drawn, 0, 255)).astype(np.uint8)
