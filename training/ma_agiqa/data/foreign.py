"""Pictures unlike any that people rate: noise, pages of text, and drawings, made by rule.

They show whether a calibration's familiarity tells them from photographs.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
"""(side, side, 3), RGB."""

_LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def _noise(rng: np.random.Generator, side: int) -> Pixels:
    """Independent pixels, in color or gray, of any contrast."""
    channels = int(rng.choice([1, 3]))
    low, high = sorted(rng.uniform(0, 255, 2))
    values = rng.uniform(low, high + 1, (side, side, channels)).astype(np.uint8)
    return np.broadcast_to(values, (side, side, 3)).copy()


def _text(rng: np.random.Generator, side: int) -> Pixels:
    """Lines of words, dark on a light page."""
    ink, paper = (tuple(map(int, rng.integers(*ends, 3))) for ends in ((0, 70), (220, 256)))
    page = Image.new("RGB", (side, side), paper)
    draw, size = ImageDraw.Draw(page), float(rng.uniform(7, 16))
    font = ImageFont.load_default(size)
    for top in np.arange(rng.uniform(0, size), side, 1.4 * size):
        words = ["".join(rng.choice(_LETTERS, rng.integers(2, 10))) for _ in range(30)]
        draw.text((size, float(top)), " ".join(words), fill=ink, font=font)
    return np.asarray(page)


def _drawing(rng: np.random.Generator, side: int) -> Pixels:
    """Outlines and flat shapes on a plain ground."""
    page = Image.new("RGB", (side, side), tuple(map(int, rng.integers(200, 256, 3))))
    draw = ImageDraw.Draw(page)
    for _ in range(rng.integers(4, 12)):
        left, top, right, bottom = rng.uniform(0, side, 4)
        box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
        color = tuple(map(int, rng.integers(0, 256, 3)))
        shape = rng.choice(["ellipse", "rectangle", "line"])
        if shape == "line":
            draw.line((left, top, right, bottom), fill=color, width=int(rng.integers(1, 5)))
        else:
            fill = color if rng.random() < 0.5 else None
            getattr(draw, str(shape))(box, outline=(0, 0, 0), fill=fill, width=2)
    return np.asarray(page)


KINDS: Mapping[str, Callable[[np.random.Generator, int], Pixels]] = {
    "noise": _noise,
    "text pages": _text,
    "drawings": _drawing,
}
"""What makes a picture of each kind."""


def foreign_pictures(count: int, side: int, seed: int = 0) -> dict[str, Pixels]:
    """Make pictures of every kind.

    Args:
        count: number of pictures of each kind.
        side: their side in pixels.
        seed: the same one gives the same pictures.

    Returns:
        (count, side, side, 3), uint8, RGB, by kind.
    """
    rng = np.random.default_rng(seed)
    return {kind: np.stack([make(rng, side) for _ in range(count)]) for kind, make in KINDS.items()}
