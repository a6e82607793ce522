"""The images that are sent: made here from sizes and formats, or read from files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from load.generator import LoadError

FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
_CELL = 16  # side of a patch of one color, in pixels: about as compressible as a photograph


@dataclass(frozen=True)
class LoadImage:
    """One encoded image.

    Attributes:
        kind: its name in tables, such as `1024 jpeg`.
        data: the file's bytes.
    """

    kind: str
    data: bytes


def make_images(sizes: Sequence[int], formats: Sequence[str], variants: int = 4) -> list[LoadImage]:
    """Make square pictures of every size in every format.

    Args:
        sizes: sides in pixels.
        formats: keys of `FORMATS`.
        variants: number of different images of each size and format.
    """
    return [
        LoadImage(f"{size} {name}", encode(_picture(size, seed), FORMATS[name]))
        for size in sizes
        for name in formats
        for seed in range(variants)
    ]


def read_images(paths: Sequence[Path]) -> list[LoadImage]:
    """Read image files, and those in folders.

    Raises:
        LoadError: there are none, or one cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        files += inside if path.is_dir() else [path]
    if not files:
        raise LoadError(f"No images were found in {', '.join(map(str, paths))}: name image files.")
    try:
        return [LoadImage(path.suffix.lstrip("."), path.read_bytes()) for path in files]
    except OSError as error:
        raise LoadError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _picture(size: int, seed: int) -> Image.Image:
    """Colored patches with noise over them."""
    rng = np.random.default_rng(seed)
    cells = -(-size // _CELL)
    coarse = rng.integers(0, 224, (cells, cells, 3), dtype=np.uint8)
    pixels = coarse.repeat(_CELL, 0).repeat(_CELL, 1)[:size, :size]
    return Image.fromarray(pixels + rng.integers(0, 32, pixels.shape, dtype=np.uint8))


def encode(picture: Image.Image, name: str, **options: int) -> bytes:
    """Write an image file of a format of Pillow, with options of its `save`."""
    buffer = io.BytesIO()
    picture.save(buffer, name, **options)
    return buffer.getvalue()
