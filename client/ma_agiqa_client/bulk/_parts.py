"""The parts of a bulk job, and which of them are finished: one output file per part.

OUTPUT/job.json                    the input, the columns and the model; written first
OUTPUT/part-000000.parquet ...     the scores of one part, written completely or not at all
"""

import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ma_agiqa_client.bulk._columns import holds_images, name_conflict, value_type
from ma_agiqa_client.bulk._store import (
    JobError,
    Store,
    files_below,
    is_below,
    locate,
    patient,
)
from ma_agiqa_client.bulk._tars import TAR, read_tar

FINAL = ("InvalidImageError",)
"""Kinds of errors that another try does not change; `--retry-failed` leaves them."""

_JOB_FILE = "job.json"


@dataclass(frozen=True)
class Part:
    """Some rows of one input file.

    Attributes:
        name: name of the file with its scores.
        file: path or URI of the input file.
        start: index of the first row.
        rows: number of rows; 0 is all, of a tar file, whose rows no one has counted.
    """

    name: str
    file: str
    start: int
    rows: int

    def read(self, columns: Sequence[str]) -> Any:
        """Read the columns of its rows as a `pyarrow.Table`.

        Raises:
            JobError: the file can no longer be read.
        """
        names = list(dict.fromkeys(columns))
        try:
            return self._read(names)
        except (OSError, pa.ArrowException, tarfile.TarError) as error:
            raise JobError(f"The input {self.file} can no longer be read: {error}") from error

    @patient
    def _read(self, columns: list[str]) -> Any:
        if _ending(self.file) == TAR:
            return read_tar(self.file, columns)
        filesystem, path = locate(self.file)
        with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
            groups, skipped = _row_groups(file.metadata, self.start, self.rows)
            table = file.read_row_groups(groups, columns=columns)
        return table.slice(skipped, self.rows)


def _ending(name: str) -> str:
    return PurePosixPath(locate(name)[1]).suffix


def _row_groups(metadata: Any, start: int, rows: int) -> tuple[list[int], int]:
    """Return the row groups that contain the rows, and how many rows in them to skip."""
    groups: list[int] = []
    skipped = first = 0
    for group in range(metadata.num_row_groups):
        last = first + metadata.row_group(group).num_rows
        if first < start + rows and last > start:
            if not groups:
                skipped = start - first
            groups.append(group)
        first = last
    return groups, skipped


@dataclass(frozen=True)
class Job:
    """All parts of the input, and the folder of their scores."""

    parts: tuple[Part, ...]
    store: Store

    @classmethod
    def open(
        cls,
        inputs: Sequence[str],
        output: str,
        *,
        columns: Sequence[str],
        rows_per_part: int,
        checkpoint_sha256: str | None,
    ) -> "Job":
        """Split the input; start the job in the output folder, or continue it.

        Raises:
            JobError: the input cannot be read or lacks a column, a column has the name of one of
                the scores, the first column has no images, or the folder belongs to another job.
        """
        if conflict := name_conflict(columns):
            raise JobError(conflict)
        store = Store(output)
        found = (file for name in inputs for file in _input_files(name))
        names = [file for file in found if not is_below(file, output)]
        files = store.each(lambda name: _describe(name, columns), names)
        description = {
            "columns": list(columns),
            "rows_per_part": rows_per_part,
            "checkpoint_sha256": checkpoint_sha256,
            "files": files,
        }
        _claim(store, description)
        spans: list[tuple[str, int, int]] = []
        for file in files:
            name, rows = file["file"], file["rows"]
            if rows is None:
                spans.append((name, 0, 0))
            else:
                starts = range(0, rows, rows_per_part)
                spans += [(name, start, min(rows_per_part, rows - start)) for start in starts]
        parts = (Part(f"part-{i:06d}.parquet", *span) for i, span in enumerate(spans))
        return cls(tuple(parts), store)

    def pending(self, retry_failed: bool = False) -> list[Part]:
        """Return the parts whose scores have not been written yet.

        Args:
            retry_failed: also those with an image that failed in a way that may not last.
        """
        done = self.store.names()
        pending = [part for part in self.parts if part.name not in done]
        if retry_failed:
            written = [part for part in self.parts if part.name in done]
            pending += [
                part
                for part, table in zip(written, self._error_kinds(written), strict=True)
                if failed_for_now(table)
            ]
        return pending

    def summary(self) -> dict[str, Any]:
        """Count the rows of all parts.

        Returns:
            `images`, `scored`, `failed`, `failed_by_kind` and `output`.

        Raises:
            JobError: the number of rows is not the number of images.
        """
        images = rows = 0
        kinds = Counter[str]()
        for part, table in zip(self.parts, self._error_kinds(self.parts), strict=True):
            rows += table.num_rows
            images += part.rows or table.num_rows
            kinds.update(table["error_kind"].drop_null().to_pylist())
        if rows != images:
            raise JobError(
                f"{self.store.folder} has {rows:,} rows for {images:,} images; another program "
                "writes there. Start again with another --output."
            )
        failed = kinds.total()
        return {
            "images": images,
            "scored": images - failed,
            "failed": failed,
            "failed_by_kind": kinds,
            "output": self.store.folder,
        }

    def _error_kinds(self, parts: Sequence[Part]) -> list[Any]:
        """Read that column of the parts' scores."""
        names = [part.name for part in parts]
        return self.store.each(lambda name: self.store.table(name, ["error_kind"]), names)


def failed_for_now(table: Any) -> list[int]:
    """Return the rows of a table of scores that failed in a way that may not last."""
    kinds = table["error_kind"].to_pylist()
    return [row for row, kind in enumerate(kinds) if kind and kind not in FINAL]


def _input_files(name: str) -> list[str]:
    """Return the tables in a folder, in order, or the file itself."""
    try:
        files = files_below(name, (".parquet", TAR))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise JobError(f"The input {name} cannot be read: {error}") from error
    if not files:
        raise JobError(f"The folder {name} has no .parquet files and no .tar files.")
    return files


def _describe(name: str, columns: Sequence[str]) -> dict[str, Any]:
    try:
        return _describe_once(name, columns)
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"The input {name} cannot be read: {error}") from error


@patient
def _describe_once(name: str, columns: Sequence[str]) -> dict[str, Any]:
    filesystem, path = locate(name)
    if _ending(name) == TAR:
        return {"file": name, "bytes": filesystem.get_file_info(path).size, "rows": None}
    with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
        missing = [column for column in columns if column not in file.schema_arrow.names]
        if missing:
            raise JobError(
                f"{name} has no column {missing[0]}; it has "
                f"{', '.join(file.schema_arrow.names)}. Give another with --column or --keep."
            )
        kind = file.schema_arrow.field(columns[0]).type
        if not holds_images(kind):
            raise JobError(
                f"The column {columns[0]} of {name} has the type {value_type(kind)}; expected "
                "paths or URIs (text), the bytes of image files, or a struct of bytes and path. "
                "Give another with --column."
            )
        return {"file": name, "bytes": source.size(), "rows": file.metadata.num_rows}


def _claim(store: Store, description: dict[str, Any]) -> None:
    """Claim the output folder for this job, or check that it belongs to this job.

    Raises:
        JobError: it belongs to another job.
    """
    text = store.read(_JOB_FILE)
    if text is None:
        if store.names():
            raise JobError(f"The output {store.folder} has other files: give an empty folder.")
        store.write(_JOB_FILE, json.dumps(description, indent=1).encode())
        return
    earlier = json.loads(text)
    changed = [name for name, value in description.items() if earlier.get(name) != value]
    if changed:
        raise JobError(
            f"The output {store.folder} belongs to a job with other {', '.join(changed)}; scores "
            "of two jobs must not be mixed. Give another --output."
        )
