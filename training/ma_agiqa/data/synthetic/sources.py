"""What the set is made from: photographs and textures that scikit-image ships, and patterns.

Photographs and textures come from the wheel of scikit-image (the files under `skimage/data`);
nothing is downloaded. The licenses are those that scikit-image states in
`skimage/data/_fetchers.py` (the coins: Brooklyn Museum, no known copyright restrictions):

| source              | file          | what it shows            | license |
| ------------------- | ------------- | ------------------------ | ------- |
| photograph_astronaut| astronaut.png | Eileen Collins, NASA     | public domain, NASA |
| photograph_camera   | camera.png    | man with a film camera   | CC0, Lav Varshney |
| photograph_chelsea  | chelsea.png   | a cat                    | CC0, Stefan van der Walt |
| photograph_coffee   | coffee.png    | a cup of coffee          | CC0, Rachel Michetti |
| photograph_coins    | coins.png     | Greek coins from Pompeii | no known restrictions |
| photograph_rocket   | rocket.jpg    | a rocket launch          | public domain, SpaceX |
| texture_brick       | brick.png     | a brick wall             | CC0, CC0Textures |
| texture_grass       | grass.png     | grass from above         | CC0, linolafett |
| texture_gravel      | gravel.png    | gravel                   | CC0, CC0Textures |
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data.synthetic.canvas import fractal_noise, hsv
from ma_agiqa.errors import DataError
from ma_agiqa.images.views import decode

Picture = NDArray[np.uint8]

PHOTOGRAPHS: Mapping[str, str] = MappingProxyType(
    {
        "photograph_astronaut": "astronaut.png",
        "photograph_camera": "camera.png",
        "photograph_chelsea": "chelsea.png",
        "photograph_coffee": "coffee.png",
        "photograph_coins": "coins.png",
        "photograph_rocket": "rocket.jpg",
    }
)
"""Source name -> file in scikit-image's data folder; each shows something."""

TEXTURES: Mapping[str, str] = MappingProxyType(
    {
        "texture_brick": "brick.png",
        "texture_grass": "grass.png",
        "texture_gravel": "gravel.png",
    }
)
"""Source name -> file in scikit-image's data folder; sharp photographs of nothing."""


@cache
def load(source: str) -> Picture:
    """Read a photograph or texture as RGB uint8 (H, W, 3).

    Raises:
        DataError: scikit-image, or the file in it, is missing.
    """
    name = {**PHOTOGRAPHS, **TEXTURES}[source]
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise DataError(f"{name} comes with scikit-image; run `pip install scikit-image`.")
    path = Path(package.origin).parent / "data" / name
    if not path.is_file():
        raise DataError(f"scikit-image has no data/{name}; install scikit-image 0.26 from PyPI.")
    return decode(path.read_bytes())


def crop(picture: Picture, rng: np.random.Generator, width: int, height: int) -> Picture:
    """Cut a random part, at least 60 % of what fits, and scale it to width x height pixels."""
    rows, columns = picture.shape[:2]
    largest = min(rows / height, columns / width)
    scale = largest * rng.uniform(0.6, 1.0)
    h, w = int(height * scale), int(width * scale)
    top, left = rng.integers(0, rows - h + 1), rng.integers(0, columns - w + 1)
    part = picture[top : top + h, left : left + w]
    shrink = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(part, (width, height), interpolation=shrink)


def tinted(picture: Picture, rng: np.random.Generator) -> Picture:
    """Give a gray texture a color."""
    color = hsv(rng.random(), rng.uniform(0.0, 0.5), 1.0)
    return np.rint(picture * color).astype(np.uint8)


def _axes(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rows, columns = np.mgrid[:height, :width].astype(np.float32) / min(height, width)
    return rows, columns


def _mix(share: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Two random colors, blended by a field of shares 0..1."""
    first, second = (hsv(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.2, 1)) for _ in "ab")
    blend = np.clip(share, 0, 1)[..., None]
    return blend * first + (1 - blend) * second


def _flat(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    return _mix(np.full((height, width), rng.random(), np.float32), rng)


def _gradient(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    rows, columns = _axes(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    field = rows * np.sin(angle) + columns * np.cos(angle)
    return _mix((field - field.min()) / np.ptp(field), rng)


def _stripes(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    rows, columns = _axes(height, width)
    angle = rng.uniform(0, np.pi)
    wave = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * rng.uniform(25, 110))
    return _mix((wave * rng.uniform(1, 8) + 1) / 2, rng)


def _checks(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    rows, columns = _axes(height, width)
    count = rng.uniform(6, 18)
    return _mix(((rows * count).astype(int) + (columns * count).astype(int)) % 2, rng)


def _dots(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    rows, columns = _axes(height, width)
    count = rng.uniform(6, 18)
    distance = np.hypot((rows * count) % 1 - 0.5, (columns * count) % 1 - 0.5)
    return _mix((rng.uniform(0.2, 0.4) - distance) * 20, rng)


def _haze(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    return _mix(fractal_noise(rng, height, width, min(height, width) / 3, 6) * 0.3 + 0.5, rng)


def _marble(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    rows, columns = _axes(height, width)
    bend = fractal_noise(rng, height, width, min(height, width) / 2, 6)
    return _mix(np.abs(np.sin(rows * rng.uniform(5, 15) + columns * 6 + 2 * bend)), rng)


def _mosaic(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    tiles = rng.integers(5, 24)
    colors = rng.random((tiles, tiles, 3)).astype(np.float32)
    return cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST)


def _scribble(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    picture = _flat(rng, height, width)
    for _ in range(rng.integers(40, 160)):
        ends = rng.random((2, 2)) * (width, height)
        start, stop = (tuple(map(int, end)) for end in ends)
        color = hsv(rng.random(), 0.7, rng.uniform(0.2, 1)).tolist()
        cv2.line(picture, start, stop, color, int(rng.integers(1, 8)), cv2.LINE_AA)
    return picture


def _noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    channels = int(rng.choice([1, 3]))
    grain = int(rng.choice([1, 1, 2, 4]))
    size = (height // grain + 1, width // grain + 1, channels)
    field = rng.normal(0.5, rng.uniform(0.15, 0.4), size).astype(np.float32)
    fine = np.repeat(np.repeat(field, grain, 0), grain, 1)[:height, :width]
    return np.broadcast_to(fine, (height, width, 3))


PATTERN_KINDS: Mapping[str, Callable[[np.random.Generator, int, int], NDArray[np.float32]]] = (
    MappingProxyType(
        {
            "flat": _flat,
            "gradient": _gradient,
            "stripes": _stripes,
            "checks": _checks,
            "dots": _dots,
            "haze": _haze,
            "marble": _marble,
            "mosaic": _mosaic,
            "scribble": _scribble,
            "noise": _noise,
        }
    )
)
"""Name of a kind of pattern -> the function that draws it, RGB 0..1."""


def draw_pattern(kind: str, rng: np.random.Generator, width: int, height: int) -> Picture:
    """Draw a pattern that shows nothing, as RGB uint8 (height, width, 3)."""
    pixels = PATTERN_KINDS[kind](rng, height, width)
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
