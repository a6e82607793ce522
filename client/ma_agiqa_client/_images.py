"""Any image a caller may hold to the bytes that travel.

Files and bytes travel untouched: the server decodes them, so every client scores the same pixels.
Pixels in memory travel as PPM, which is a header of a few bytes before the raw samples: nothing is
compressed and nothing is lost.
"""

import os
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ma_agiqa_client.errors import InvalidImageError

__all__ = ["MAX_IMAGE_BYTES", "ImageLike", "detach", "encode_image"]

ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[Any]"
)

MAX_IMAGE_BYTES = 2**31 - 2**16
"""Most bytes that fit a gRPC message beside the request; servers accept far less."""

_EXPECTED_ARRAY = (
    "Expected height x width x 3 (RGB) or height x width (grey), "
    "uint8 in 0-255 or floating point in 0-1."
)


def encode_image(image: ImageLike) -> bytes:
    """Give the bytes to send for an image.

    Args:
        image: path of an image file; the bytes of one; a Pillow image, whose EXIF orientation is
            applied and whose alpha is dropped, as the server does with files; or a NumPy array
            (height, width, 3) RGB or (height, width) grey, uint8 in 0-255 or floating point in
            0-1, rounded to 8 bits.

    Returns:
        The file's bytes unchanged, or binary PPM (PGM for grey).

    Raises:
        InvalidImageError: unreadable file, no bytes, or an array of another dtype, shape or range.
    """
    if isinstance(image, str | os.PathLike):
        return _from_file(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return _checked(bytes(image), "The given bytes")
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise InvalidImageError(
        f"Got an object of type {type(image).__name__}. Expected a path, bytes, a Pillow image or "
        "a NumPy array."
    )


def detach(image: ImageLike) -> ImageLike:
    """Copy what the caller may overwrite before it is sent (buffers and arrays)."""
    if isinstance(image, np.ndarray):
        return image.copy()
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    return image


def _from_file(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidImageError(
            f"The file {os.fspath(path)!r} cannot be read: {reason}. "
            "Expected the path of a readable image file."
        ) from error
    return _checked(data, "The file")


def _checked(data: bytes, subject: str) -> bytes:
    if not data:
        raise InvalidImageError(f"{subject} has 0 bytes. Expected an encoded image, such as a PNG.")
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidImageError(
            f"{subject} has more than {MAX_IMAGE_BYTES:,} bytes, which no request can carry. "
            "Compress it or scale it down."
        )
    return data


def _from_pillow(image: Image.Image) -> bytes:
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grey keeps its high byte, as on the server
            image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        if image.mode == "F":
            raise InvalidImageError(
                "The Pillow image has mode F, whose range is not known. Convert it to RGB first."
            )
        return _from_array(np.asarray(image if image.mode == "L" else image.convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InvalidImageError):
            raise
        raise InvalidImageError(
            f"The Pillow image cannot be decoded ({error}). Open an intact file."
        ) from error


def _from_array(array: npt.NDArray[Any]) -> bytes:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if (array.ndim != 2 and (array.ndim != 3 or array.shape[2] != 3)) or not array.size:
        raise InvalidImageError(f"Got an array of shape {array.shape}. {_EXPECTED_ARRAY}")
    pixels = _to_uint8(array)
    height, width = pixels.shape[:2]
    magic = "P6" if pixels.ndim == 3 else "P5"
    return _checked(f"{magic}\n{width} {height}\n255\n".encode() + pixels.tobytes(), "The array")


def _to_uint8(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidImageError(f"Got an array of dtype {array.dtype}. {_EXPECTED_ARRAY}")
    low, high = float(array.min()), float(array.max())
    if np.isnan(low) or np.isnan(high):
        raise InvalidImageError(f"Got an array that holds NaN. {_EXPECTED_ARRAY}")
    if low < 0 or high > 1:
        raise InvalidImageError(
            f"Got a {array.dtype} array with values from {low:g} to {high:g}. {_EXPECTED_ARRAY}"
        )
    pixels: npt.NDArray[np.uint8] = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    return pixels
