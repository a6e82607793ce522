"""Images of any kind to the bytes that are sent.

Files and bytes are sent unchanged: the server decodes them, so every client scores the same pixels.
Pixels in memory are sent as PPM (`arrays.py`), which keeps them exactly.
"""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ma_agiqa_client._wire.arrays import encode_array, is_array, is_batch, on_the_cpu
from ma_agiqa_client.errors import InvalidImageError

MAX_IMAGE_BYTES = 2**31 - 2**16
"""Maximum size of an image in a gRPC message; servers accept far less."""

_WEB = ("http://", "https://")


class SupportsArray(Protocol):
    """An array of some library, such as a torch tensor."""

    @property
    def shape(self) -> Any:
        """Size along each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""


ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image "
    "| npt.NDArray[Any] | SupportsArray"
)


@dataclass(frozen=True)
class Encoder:
    """Turns images into bytes.

    Attributes:
        fetch_urls: whether strings that begin with http:// or https:// are fetched.
        max_side: maximum pixels per side; larger images are scaled down. None sends them unchanged.
    """

    fetch_urls: bool = False
    max_side: int | None = None

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max_side is {self.max_side}; expected at least 1 pixel, or None.")

    def encode(self, image: ImageLike, timeout_s: float = 60.0) -> bytes:
        """Return the bytes to send for an image.

        Args:
            image: path of an image file; the bytes of one; a binary file object, which is read to
                its end; a web address if `fetch_urls`; a Pillow image, whose EXIF orientation is
                applied and whose alpha channel is dropped, as the server does with files; or an
                array or tensor as `encode_array` takes it.
            timeout_s: seconds that fetching may take.

        Returns:
            The file's bytes unchanged, or binary PPM (PGM for gray).

        Raises:
            InvalidImageError: the image is unreadable or empty, or an array of another dtype, shape
                or range.
        """
        if self.max_side is not None:
            return _reduced(self._bytes(image, timeout_s), self.max_side)
        return self._bytes(image, timeout_s)

    def _bytes(self, image: ImageLike, timeout_s: float) -> bytes:
        if isinstance(image, str) and image.lower().startswith(_WEB):
            return _checked(self._fetched(image, timeout_s), f"The image at {image}")
        if isinstance(image, str | os.PathLike):
            return _from_file(image)
        if isinstance(image, bytes | bytearray | memoryview):
            return _checked(bytes(image), "The given bytes")
        if isinstance(image, Image.Image):
            return _from_pillow(image)
        if is_array(image):
            return _checked(encode_array(image), "The array")
        if hasattr(image, "read"):
            return _from_file_object(image)
        raise InvalidImageError(
            f"Got an object of type {type(image).__name__}. Expected a path, bytes, a binary file, "
            "a Pillow image, a NumPy array or a torch tensor."
        )

    def _fetched(self, address: str, timeout_s: float) -> bytes:
        if not self.fetch_urls:
            raise InvalidImageError(
                f"Got the web address {address}, but this scorer does not fetch images. "
                "Make it with fetch_urls=True if you trust the source of the addresses."
            )
        from ma_agiqa_client._wire.fetch import fetch  # urllib is slow to import, and rarely used

        return fetch(address, timeout_s)


def detach(image: Any) -> Any:
    """Copy what the caller may overwrite or close before it is sent.

    Raises:
        InvalidImageError: a file object cannot be read.
    """
    if isinstance(image, np.ndarray):
        return image.copy()
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if is_array(image):
        return image.clone() if hasattr(image, "clone") else image
    if hasattr(image, "read") and not isinstance(image, os.PathLike | Image.Image):
        return _from_file_object(image)
    return image


def check_sources(sources: Any) -> Any:
    """Check that something is several images; return what to iterate over.

    A batch is iterated along its first axis; a tensor on a GPU is copied to the CPU once.

    Raises:
        TypeError: it is one image, or not iterable.
    """
    one = isinstance(sources, str | bytes | bytearray | memoryview | os.PathLike | Image.Image)
    if one or (is_array(sources) and not is_batch(sources)) or hasattr(sources, "read"):
        raise TypeError(
            f"Got one object of type {type(sources).__name__}; expected several images, such as a "
            "list, or an array of 4 dimensions. Use score for a single image."
        )
    if not isinstance(sources, Iterable) and not hasattr(sources, "__aiter__"):
        raise TypeError(f"Got {type(sources).__name__}; expected something that yields images.")
    return on_the_cpu(sources)


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; 16-bit gray keeps its high byte, as on the server."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
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


def _from_file_object(file: Any) -> bytes:
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed, or text it cannot decode
        raise InvalidImageError(
            f"The file object cannot be read ({error}). Open it with mode 'rb'."
        ) from error
    if not isinstance(data, bytes):
        raise InvalidImageError(
            f"The file object gave {type(data).__name__}; expected bytes. Open it with mode 'rb'."
        )
    return _checked(data, "The file object, read from its current position,")


def _checked(data: bytes, subject: str) -> bytes:
    if not data:
        raise InvalidImageError(f"{subject} has 0 bytes. Expected an encoded image, such as a PNG.")
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidImageError(
            f"{subject} has more than {MAX_IMAGE_BYTES:,} bytes, which is too large for a request. "
            "Compress it or scale it down."
        )
    return data


def _from_pillow(image: Image.Image) -> bytes:
    try:
        image = upright(image)
        if image.mode == "F":
            raise InvalidImageError(
                "The Pillow image has mode F, whose range is not known. Convert it to RGB first."
            )
        return encode_array(np.asarray(image if image.mode == "L" else image.convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidImageError(
            f"The Pillow image cannot be decoded ({error}). Open an intact file."
        ) from error


def _reduced(data: bytes, max_side: int) -> bytes:
    """Scale a large image down, as PPM; return the same bytes if it is small or unreadable."""
    try:
        with Image.open(io.BytesIO(data)) as decoded:
            if max(decoded.size) <= max_side:
                return data
            small = ImageOps.exif_transpose(decoded)
            if small.mode not in ("L", "I", "I;16", "F"):
                small = small.convert("RGB")
            small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return data
    return _from_pillow(small)
