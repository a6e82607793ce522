"""The images that are sent: made here from sizes and formats, or read from files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["FORMATS", "LoadImage", "make_images", "read_images"]

FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
_VARIANTS = 4  # different images of each size and format
_CELL = 16  # side of a patch of one color, in pixels: about as compressible as a photograph


@dataclass(frozen=True)
class LoadImage:
    """One encoded image.

    Attributes:
        kind: what it is called in tables, such as `1024 jpeg`.
        data: the file's bytes.
    """

    kind: str
    data: bytes


def make_images(sizes: Sequence[int], formats: Sequence[str]) -> list[LoadImage]:
    """Make square pictures of every size in every format.

    Args:
        sizes: sides in pixels.
        formats: keys of `FORMATS`.
    """
    return [
        LoadImage(f"{size} {name}", _encode(_picture(size, seed), FORMATS[name]))
        for size in sizes
        for name in formats
        for seed in range(_VARIANTS)
    ]


def read_images(folder: Path) -> list[LoadImage]:
    """Read every file of a folder.

    Raises:
        ValueError: it holds none.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    if not files:
        raise ValueError(f"--image-folder {folder} holds no files. Name a folder of images.")
    return [LoadImage(path.suffix.lstrip(".").lower(), path.read_bytes()) for path in files]


def _picture(size: int, seed: int) -> Image.Image:
    """Colored patches with noise over them."""
    rng = np.random.default_rng(seed)
    cells = -(-size // _CELL)
    coarse = rng.integers(0, 224, (cells, cells, 3), dtype=np.uint8)
    pixels = coarse.repeat(_CELL, 0).repeat(_CELL, 1)[:size, :size]
    return Image.fromarray(pixels + rng.integers(0, 32, pixels.shape, dtype=np.uint8))


def _encode(picture: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, name)
    return buffer.getvalue()
