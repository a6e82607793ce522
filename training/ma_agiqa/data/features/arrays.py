"""Arrays on the disk with one row per image: `.npy` files whose every byte has its place.

They are written through descriptors: a disk that takes no more is an error there, where a mapped
array would end the process.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from ma_agiqa.errors import DataError
from ma_agiqa.data.features.source_files import FILE_RECORD
from ma_agiqa.tensors import QUALITY_SIZE

__all__ = ["DATA", "PROGRESS", "RowFile", "layout", "reserve_arrays", "write_errors"]

DATA = ("quality_view", "semantic", "coherence", "files")
"""Names of the arrays that make a row."""

PROGRESS = "progress"
"""Name of the array that says which rows are complete."""

Layout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""dtype and shape by name."""


def layout(count: int, width: int) -> Layout:
    """Describe the arrays of a store.

    Args:
        count: images.
        width: of an embedding.
    """
    return {
        "quality_view": (np.dtype(np.uint8), (count, QUALITY_SIZE, QUALITY_SIZE, 3)),
        "semantic": (np.dtype(np.float16), (count, width)),
        "coherence": (np.dtype(np.float16), (count, width)),
        "files": (FILE_RECORD, (count,)),
        PROGRESS: (np.dtype(np.uint8), (count,)),
    }


def reserve_arrays(folder: Path, arrays: Layout) -> None:
    """Make arrays of zeros.

    Raises:
        DataError: the disk has no room for all of them, or cannot be written.
    """
    needed = sum(_data_bytes(dtype, shape) for dtype, shape in arrays.values())
    free = _free_bytes(folder)
    lacking = (
        f"The features need {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB are free"
    )
    if needed > free:
        raise DataError(f"{lacking}. Make room, or set features.folder to another disk.")
    try:
        for name, (dtype, shape) in arrays.items():
            _reserve(folder / f"{name}.npy", dtype, shape)
    except OSError as error:
        for name in arrays:
            (folder / f"{name}.npy").unlink(missing_ok=True)
        raise DataError(
            f"{lacking}, but that room is not given: {error.strerror}. Make room, or set "
            "features.folder to another disk."
        ) from error


class RowFile:
    """One array, open for writing rows; its errors are OSErrors."""

    def __init__(self, file: BinaryIO, mapped: np.memmap[Any, Any]) -> None:
        """Take a file.

        Args:
            file: open for reading and writing, without a buffer.
            mapped: the same file, which tells where rows begin.
        """
        self._file, self._start, self._dtype = file, mapped.offset, mapped.dtype
        self._row_bytes = mapped.dtype.itemsize * int(np.prod(mapped.shape[1:]))

    def put(self, rows: Sequence[int], values: NDArray[Any]) -> None:
        """Write rows (B,) from values (B, ...) of the array's own dtype."""
        for row, value in zip(rows, values.astype(self._dtype, casting="no"), strict=True):
            position = self._start + int(row) * self._row_bytes
            if os.pwrite(self._file.fileno(), value.tobytes(), position) < self._row_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        os.fdatasync(self._file.fileno())


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn errors of writing in a folder into a sentence.

    Raises:
        DataError: the disk is full or cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"Cannot write the features in {folder}: {error.strerror}.") from error


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _reserve(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Make an array of zeros whose every byte has its place on the disk."""
    header = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        write_array_header_1_0(file, header)
        file.flush()
        os.posix_fallocate(file.fileno(), 0, file.tell() + _data_bytes(dtype, shape))
        os.fsync(file.fileno())


def _data_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape))
