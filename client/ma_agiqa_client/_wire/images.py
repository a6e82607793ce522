"""Images of any kind to the bytes that are sent.

Files and bytes are sent unchanged: the server decodes them, so every client scores the same pixels.
Pixels in memory are sent as PPM (`arrays.py`), which keeps them exactly.
"""

import io
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from ma_agiqa_client._wire.arrays import encode_array, is_array, is_batch, on_the_cpu
from ma_agiqa_client._wire.pictures import FORMATS, as_served, open_picture
from ma_agiqa_client.errors import InvalidImageError

MAX_IMAGE_BYTES = 64 * 2**20
"""Maximum size of an image file: the server does not accept more."""

_MAX_READ_BYTES = 2**31 - 2**16  # of images that are scaled down before they are sent
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


class UnchangingFile(os.PathLike[str]):
    """The path of a file that does not change while it waits to be sent, so it is read late."""

    path: str

    def __fspath__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Unreadable:
    """In place of an image that could not be read when it was given."""

    error: InvalidImageError


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

    def take(self, image: ImageLike, *, files_wait: bool = False) -> Any:
        """Read an image that the caller may change, overwrite or close afterwards.

        Args:
            image: as `encode` takes it.
            files_wait: whether paths are only read by `encode`, because the caller cannot know when
                the next image is asked for.

        Returns:
            What `encode` takes, and the caller cannot change: bytes, a web address, a path if
            `files_wait`, or an `Unreadable`.
        """
        if isinstance(image, UnchangingFile) or is_address(image):
            return image
        if files_wait and isinstance(image, str | os.PathLike):
            return image
        try:
            return self._bytes(image)
        except InvalidImageError as error:
            return Unreadable(error)

    def encode(self, image: "ImageLike | Unreadable", timeout_s: float = 60.0) -> bytes:
        """Return the bytes to send for an image.

        Args:
            image: path of a regular file; the bytes of an image file; a binary file object, which
                is read to its end; a web address if `fetch_urls`; a Pillow image, whose EXIF
                orientation is applied and whose alpha channel is dropped, as the server does with
                files; an array or tensor as `encode_array` takes it; or what `take` returned.
            timeout_s: seconds that fetching may take.

        Returns:
            The file's bytes unchanged, or binary PPM (PGM for gray).

        Raises:
            InvalidImageError: the image is unreadable, empty or too large, or an array of another
                dtype, shape or range.
        """
        if isinstance(image, Unreadable):
            raise image.error
        data = self._fetched(image, timeout_s) if is_address(image) else self._bytes(image)
        if self.max_side is None:
            return data
        return _checked(_reduced(data, self.max_side), "The image to send", MAX_IMAGE_BYTES)

    def _bytes(self, image: ImageLike) -> bytes:
        limit = MAX_IMAGE_BYTES if self.max_side is None else _MAX_READ_BYTES
        if isinstance(image, str | os.PathLike):
            return _checked(read_file(image, limit), "The file", limit)
        if isinstance(image, bytes):
            return _checked(image, "The image", limit)
        if isinstance(image, bytearray | memoryview):
            return _checked(bytes(image), "The image", limit)
        if isinstance(image, Image.Image):
            return _checked(_to_ppm(as_served(image)), "The Pillow image", limit)
        if is_array(image):
            return _checked(encode_array(image), "The array", limit)
        if hasattr(image, "read"):
            subject = "The file object, read from its current position,"
            return _checked(_from_file_object(image), subject, limit)
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

        data = fetch(address, timeout_s, MAX_IMAGE_BYTES)
        return _checked(data, f"The image at {address}", MAX_IMAGE_BYTES)


def read_file(path: str | os.PathLike[str], limit: int = MAX_IMAGE_BYTES) -> bytes:
    """Read a file up to one byte above a limit.

    Raises:
        InvalidImageError: it cannot be read, or is not a regular file. Pipes, sockets and devices
            are not waited for.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            raise OSError(None, "it is a pipe, a socket or a device")
        with open(path, "rb", opener=_open_at_once) as file:
            return file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidImageError(
            f"The file {os.fspath(path)!r} cannot be read: {reason}. "
            "Expected the path of a readable image file."
        ) from error


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


def is_address(image: Any) -> TypeGuard[str]:
    """Return whether an image is given by its web address."""
    return isinstance(image, str) and image.lower().startswith(_WEB)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting, should it have become a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _from_file_object(file: Any) -> bytes:
    try:
        data = file.read()
    except Exception as error:  # it is closed, or text, or fails in a way of its own
        raise InvalidImageError(
            f"The file object cannot be read ({error}). Open it with mode 'rb'."
        ) from error
    if not isinstance(data, bytes | bytearray):
        raise InvalidImageError(
            f"The file object gave {type(data).__name__}; expected bytes. Open it with mode 'rb'."
        )
    return bytes(data)


def _checked(data: bytes, subject: str, limit: int) -> bytes:
    if not data:
        raise InvalidImageError(f"{subject} has 0 bytes. Expected an encoded image, such as a PNG.")
    if len(data) > limit:
        raise InvalidImageError(
            f"{subject} has more than {limit:,} bytes, which the server does not accept. "
            "Compress it or scale it down."
        )
    return data


def _to_ppm(image: Image.Image) -> bytes:
    return encode_array(np.asarray(image))


def _reduced(data: bytes, max_side: int) -> bytes:
    """Scale a large image down, as PPM; return the same bytes if it is small or unreadable."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if max(opened.size) <= max_side:
                return data
        return _to_ppm(open_picture(io.BytesIO(data), max_side, quickly=False))
    except Exception:  # Pillow's readers raise errors of every kind; the server says what is wrong
        return data
