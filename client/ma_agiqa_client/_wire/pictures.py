"""Pillow images as the server sees them: its formats, upright, 8-bit RGB or gray."""

import os
import threading
from importlib.util import find_spec
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image

from ma_agiqa_client._wire.arrays import wrong_array
from ma_agiqa_client.errors import InvalidImageError

_HAS_AVIF = find_spec("PIL.AvifImagePlugin") is not None  # Pillow 11.3 or later
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF", "TIFF", *(("AVIF",) if _HAS_AVIF else ()))
"""Formats that are opened here: those of the server. For EPS, Pillow would run Ghostscript."""

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".pam"),
)
"""File name extensions of these formats, in upper or lower case."""

OTHER_EXTENSIONS = (
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".jxr", ".svg", ".svgz"),
    *(".psd", ".tga", ".ico", ".icns", ".exr", ".hdr", ".eps", ".pdf", ".dds", ".qoi", ".apng"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
)
"""Extensions of images of other formats."""

_SIXTEEN_BITS = ("PNG", "PPM")  # whose mode I has values in 0-65535

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each EXIF orientation upright."""


def as_served(image: Image.Image) -> Image.Image:
    """Return a copy of an image as the server decodes its file: upright, of mode RGB or L.

    Of the metadata only the orientation is read; if it cannot be read, the image is not turned.
    16-bit gray keeps its high byte, and alpha is dropped.

    Raises:
        InvalidImageError: Pillow cannot decode it, or its range is not known.
    """
    # Pillow decodes an image at its first use, and cannot do so on two threads at the same time.
    lock = vars(image).setdefault(f"_ma_agiqa_lock_{os.getpid()}", threading.Lock())
    try:
        with lock:
            image.load()
            shown, turn = _eight_bits(image), _TURNS.get(_orientation(image))
            return shown if turn is None else shown.transpose(turn)
    except InvalidImageError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of every kind
        raise InvalidImageError(
            f"The Pillow image cannot be decoded ({str(error) or type(error).__name__}). "
            "Give an image that is intact and not closed."
        ) from error


def open_picture(file: str | IO[bytes], longest_side: int, *, quickly: bool) -> Image.Image:
    """Open a file as the server sees it, scaled down to a longest side in pixels.

    Args:
        file: path or binary file.
        longest_side: smaller images keep their size.
        quickly: whether a JPEG may be decoded at a fraction of its size, for pictures to look at.

    Raises:
        InvalidImageError: it is not one of `FORMATS`, or cannot be decoded.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if quickly:
                opened.draft("RGB", (longest_side, longest_side))
            image = as_served(opened)
    except InvalidImageError:
        raise
    except Exception as error:  # among them DecompressionBombError
        raise InvalidImageError(f"Pillow cannot open the image ({error}).") from error
    gap = 2.0 if quickly else None
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS, reducing_gap=gap)
    return image


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata says nothing about the pixels
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS):
        raise wrong_array(
            f"The Pillow image has mode {image.mode}, whose range is not known. "
            "Convert it to 8-bit RGB or gray first."
        )
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.copy() if image.mode in ("L", "RGB") else image.convert("RGB")
