"""The store: a folder of memory-mapped arrays with one row per image.

    quality_view.npy   uint8   (N, 224, 224, 3), RGB
    semantic.npy       float16 (N, D)
    coherence.npy      float16 (N, D)
    files.npy          (N,): bytes, mtime_ns and sha256 of the file each row was made from
    progress.npy       uint8   (N,): 1 where a row is complete
    images.csv         the images' names, in the order of the rows
    identity.json      what the rows were made with, see `identity`; its presence makes the store

All space is reserved when the store is made, so that a full disk shows at once. A row's data is on
the disk before its progress is set, and identity.json is written last: nothing half-written is
ever taken for whole.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data import RatedImage
from ma_agiqa.errors import DataError
from ma_agiqa.data.features.arrays import (
    DATA,
    PROGRESS,
    RowFile,
    layout,
    reserve_arrays,
    write_errors,
)
from ma_agiqa.data.features.identity import FORMAT, differences

__all__ = ["FeatureStore", "FeatureWriter", "Features", "name_some"]

_NAMES, _IDENTITY = "images.csv", "identity.json"
_NAMED = 5  # images that a message names

_MAKE_ANEW = "Add --overwrite to `python -m ma_agiqa features`, or set features.folder."


@dataclass(frozen=True)
class Features:
    """Features of N images in the M rows of a store; reading touches only the rows asked for.

    Attributes:
        folder: of the store.
        identity: of the embedder, see `identity`.
        rows: int64 (N,), each image's row in the arrays.
        quality_view: uint8 (M, 224, 224, 3), RGB.
        semantic, coherence: float16 (M, D).
    """

    folder: Path
    identity: Mapping[str, Any]
    rows: NDArray[np.int64]
    quality_view: NDArray[np.uint8]
    semantic: NDArray[np.float16]
    coherence: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the arrays itself; a copy would be gigabytes."""
        return _map_features, (self.folder, self.identity, self.rows)


class FeatureStore:
    """A store on disk.

    Attributes:
        folder: where it is.
        identity: what its rows were made with.
        names: of the images, in the order of the rows.
    """

    def __init__(self, folder: Path) -> None:
        """Open a store.

        Raises:
            DataError: there is none, or its files are damaged.
        """
        self.folder = folder
        if not self.exists(folder):
            raise DataError(
                f"{folder} holds no features. Make them with `python -m ma_agiqa features`."
            )
        try:
            self.identity: Mapping[str, Any] = json.loads((folder / _IDENTITY).read_text("utf-8"))
            self._check_format()
            self.names = _read_names(folder / _NAMES)
            self._check_layout()
        except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
            raise DataError(
                f"The features in {folder} are damaged: {error}. {_MAKE_ANEW}"
            ) from error
        self._row_of = {name: row for row, name in enumerate(self.names)}

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a folder holds a store, complete or not."""
        return (folder / _IDENTITY).is_file()

    @classmethod
    def create(
        cls, folder: Path, names: Sequence[str], identity: Mapping[str, Any]
    ) -> "FeatureStore":
        """Make an empty store, in the place of an older one.

        Args:
            folder: its own files in it are replaced.
            names: of the images, in the order of the rows.
            identity: see `identity.store_identity`.

        Raises:
            DataError: the disk has no room for the whole store, or cannot be written.
        """
        arrays = layout(len(names), identity["embedder"]["hidden_size"])
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in (_IDENTITY, _NAMES, *(f"{array}.npy" for array in arrays)):
                (folder / name).unlink(missing_ok=True)
        reserve_arrays(folder, arrays)
        with write_errors(folder):
            _write_whole(folder / _NAMES, _csv_text(names))
            _write_whole(folder / _IDENTITY, json.dumps(identity, indent=2) + "\n")
        return cls(folder)

    def check_identity(self, wanted: Mapping[str, Any]) -> None:
        """Compare with what a run wants, see `identity.differences`.

        Raises:
            DataError: every difference, and what to do.
        """
        if found := differences(self.identity, wanted):
            raise DataError(
                f"The features in {self.folder} were made otherwise: {'; '.join(found)}. "
                f"{_MAKE_ANEW}"
            )

    def rows_of(self, images: Sequence[RatedImage]) -> NDArray[np.int64]:
        """Row of each image, found by its name.

        Raises:
            DataError: images that the store has no row for.
        """
        if missing := [image for image in images if image.name not in self._row_of]:
            listed = {image.name for image in images}
            others = [name for name in self.names if name not in listed]
            instead = f", but for others, such as {', '.join(others[:_NAMED])}" if others else ""
            raise DataError(
                f"The features in {self.folder} were made of another list of images: there is no "
                f"row for {len(missing):,} of the {len(images):,}, such as {name_some(missing)}"
                f"{instead}. {_MAKE_ANEW}"
            )
        return np.array([self._row_of[image.name] for image in images], np.int64)

    def done(self) -> NDArray[np.bool_]:
        """Which rows (N,) are complete."""
        return np.array(self._map(PROGRESS), bool)

    def files(self) -> NDArray[np.void]:
        """What each row was made from: a copy of files.npy, (N,) of FILE_RECORD."""
        return np.array(self._map("files"))

    def features(self, images: Sequence[RatedImage]) -> Features:
        """Map the arrays for these images.

        Raises:
            DataError: images without a row, or whose row is not complete.
        """
        rows = self.rows_of(images)
        if unfinished := [i for i, d in zip(images, self.done()[rows], strict=True) if not d]:
            raise DataError(
                f"The features of {len(unfinished):,} of the {len(images):,} images are still "
                f"missing in {self.folder}, such as {name_some(unfinished)}. "
                "Run `python -m ma_agiqa features`."
            )
        return _map_features(self.folder, self.identity["embedder"], rows)

    @contextmanager
    def writing(self) -> Iterator["FeatureWriter"]:
        """Write rows while the context is open; several processes may do so at once."""
        with ExitStack() as stack:
            with write_errors(self.folder):
                arrays = {
                    name: RowFile(
                        stack.enter_context(open(self._path(name), "r+b", buffering=0)),
                        self._map(name),
                    )
                    for name in (*DATA, PROGRESS)
                }
            yield FeatureWriter(self.folder, arrays)
            with write_errors(self.folder):
                arrays[PROGRESS].flush()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _map(self, name: str) -> np.memmap[Any, Any]:
        return np.load(self._path(name), mmap_mode="r")

    def _check_format(self) -> None:
        found = self.identity.get("format") if isinstance(self.identity, dict) else None
        if found != FORMAT:
            raise ValueError(f"{_IDENTITY} states format {found}, this version reads {FORMAT}")

    def _check_layout(self) -> None:
        expected = layout(len(self.names), self.identity["embedder"]["hidden_size"])
        for name, (dtype, shape) in expected.items():
            found = self._map(name)
            if found.dtype != dtype or found.shape != shape:
                raise ValueError(f"{name}.npy is {found.dtype} {found.shape}, not {dtype} {shape}")


class FeatureWriter:
    """Writes rows of an open store."""

    def __init__(self, folder: Path, arrays: Mapping[str, RowFile]) -> None:
        self._folder, self._arrays = folder, arrays

    def write(self, rows: Sequence[int], values: Mapping[str, NDArray[Any]]) -> None:
        """Write rows: their data first, their progress when that is on the disk.

        Args:
            rows: (B,).
            values: quality_view, semantic, coherence and files, each (B, ...) in its own dtype.
        """
        with write_errors(self._folder):
            for name in DATA:
                self._arrays[name].put(rows, values[name])
            for name in DATA:
                self._arrays[name].flush()
            self._arrays[PROGRESS].put(rows, np.ones(len(rows), np.uint8))

    def forget(self, rows: Sequence[int]) -> None:
        """Take rows back: they are to be made again."""
        with write_errors(self._folder):
            self._arrays[PROGRESS].put(rows, np.zeros(len(rows), np.uint8))
            self._arrays[PROGRESS].flush()

    def touch(self, rows: Sequence[int], files: NDArray[np.void]) -> None:
        """Note new times of files whose content is the same."""
        with write_errors(self._folder):
            self._arrays["files"].put(rows, files)


def name_some(images: Sequence[RatedImage]) -> str:
    """Name the first few images of a list with their rows in the table."""
    named = ", ".join(f"{image.name} (row {image.row})" for image in images[:_NAMED])
    return named + (f" and {len(images) - _NAMED:,} more" if len(images) > _NAMED else "")


def _map_features(folder: Path, identity: Mapping[str, Any], rows: NDArray[np.int64]) -> Features:
    views, semantic, coherence = (
        np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in DATA[:3]
    )
    return Features(folder, identity, rows, views, semantic, coherence)


def _csv_text(names: Sequence[str]) -> str:
    quoted = ('"' + name.replace('"', '""') + '"' for name in names)
    return "image\n" + "".join(f"{name}\n" for name in quoted)


def _read_names(path: Path) -> tuple[str, ...]:
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(row[0] for row in csv.reader(file))[1:]


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
