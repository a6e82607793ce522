"""The image files: read once for both views, and compared later without reading them again."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data import RatedImage
from ma_agiqa.errors import DataError, ImageError
from ma_agiqa.images.views import decode, quality_view, semantic_view

__all__ = ["FILE_RECORD", "SourceViews", "changed_files", "read_views"]

FILE_RECORD = np.dtype([("bytes", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,))])
"""What is kept of the file that a row was made from."""


@dataclass(frozen=True)
class SourceViews:
    """One image, decoded.

    Attributes:
        quality: uint8 (224, 224, 3), RGB.
        semantic: uint8 (S, S, 3), RGB.
        file: a FILE_RECORD.
    """

    quality: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    file: NDArray[np.void]


def read_views(image: RatedImage, semantic_size: int) -> SourceViews:
    """Read an image file and make both views.

    Args:
        image: row of the table.
        semantic_size: side of the embedder's view in pixels.

    Raises:
        DataError: the file cannot be read or decoded; names the file and the row.
    """
    try:
        with open(image.path, "rb") as file:
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            data = file.read()
        rgb = decode(data)
    except (OSError, ImageError) as error:
        reason = f"{error.strerror}." if isinstance(error, OSError) else str(error)
        raise DataError(f"{image.path} (row {image.row}): {reason}") from error
    return SourceViews(
        quality_view(rgb), semantic_view(rgb, semantic_size), _record(data, mtime_ns)
    )


def changed_files(
    images: Sequence[RatedImage], files: NDArray[np.void], workers: int
) -> tuple[NDArray[np.bool_], NDArray[np.void]]:
    """Find files that are no longer what features were made from.

    A file of the same size and time is taken for the same; one with another time is read. A file
    that is not there any more cannot have changed.

    Args:
        images: N images.
        files: (N,) of FILE_RECORD, their files as they were.
        workers: threads that read files.

    Returns:
        Whether each file has another content, bool (N,); and the records (N,) with the new times.
    """
    with ThreadPoolExecutor(workers) as pool:
        now = list(pool.map(_look, images, files))
    records = np.array(now, FILE_RECORD) if now else np.array(files)
    return (records["sha256"] != files["sha256"]).any(axis=1), records


def _look(image: RatedImage, before: np.void) -> np.void:
    try:
        status = image.path.stat()
        if status.st_size != before["bytes"]:
            return _record(b"", status.st_mtime_ns)
        if status.st_mtime_ns == before["mtime_ns"]:
            return before
        return _record(image.path.read_bytes(), status.st_mtime_ns)
    except FileNotFoundError:
        return before
    except OSError as error:
        raise DataError(
            f"{image.path} (row {image.row}) cannot be read: {error.strerror}."
        ) from error


def _record(data: bytes, mtime_ns: int) -> np.void:
    digest = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return np.array((len(data), mtime_ns, digest), FILE_RECORD)[()]
