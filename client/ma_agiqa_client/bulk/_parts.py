"""The parts of a bulk job, and which of them are finished: one output file per part.

OUTPUT/job.json                    the input, the columns and the model; written first
OUTPUT/part-000000.parquet ...     the scores of one part, written completely or not at all
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from ma_agiqa_client.bulk._columns import name_conflict

_JOB_FILE = "job.json"


class JobError(Exception):
    """The job cannot continue, because of its input or its output."""


@dataclass(frozen=True)
class Part:
    """Some rows of one input file.

    Attributes:
        name: name of the file with its scores.
        file: path or URI of the input file.
        start: index of the first row.
        rows: number of rows.
    """

    name: str
    file: str
    start: int
    rows: int

    def to_record(self) -> dict[str, Any]:
        """Return the part as Ray Data takes it."""
        return asdict(self)

    def read(self, columns: Sequence[str]) -> Any:
        """Read the columns of its rows as a `pyarrow.Table`.

        Raises:
            JobError: the file can no longer be read.
        """
        filesystem, path = locate(self.file)
        try:
            with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
                groups, skipped = _row_groups(file.metadata, self.start, self.rows)
                table = file.read_row_groups(groups, columns=list(dict.fromkeys(columns)))
        except (OSError, pa.ArrowException) as error:
            raise JobError(f"The input {self.file} can no longer be read: {error}") from error
        return table.slice(skipped, self.rows)


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
class Store:
    """The folder of the scores, on a disk that all nodes share or in an object store."""

    folder: str

    def names(self) -> set[str]:
        """Return the names of the finished files."""
        filesystem, path = locate(self.folder)
        listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {entry.base_name for entry in listing if not entry.base_name.startswith(".")}

    def write(self, name: str, data: bytes) -> None:
        """Write a file completely or not at all; an older one is replaced.

        Raises:
            JobError: the file cannot be written.
        """
        filesystem, path = locate(self.folder)
        local = isinstance(filesystem, fs.LocalFileSystem)
        # Object stores show only complete objects; on disks, a complete file is renamed.
        target = f"{path}/.{name}.{uuid4().hex}" if local else f"{path}/{name}"
        try:
            filesystem.create_dir(path)
            with filesystem.open_output_stream(target) as stream:
                stream.write(data)
            if local:
                filesystem.move(target, f"{path}/{name}")
        except OSError as error:
            raise JobError(f"The scores cannot be written to {self.folder}: {error}") from error

    def write_table(self, name: str, table: Any) -> None:
        """Write a `pyarrow.Table` as Parquet, as `write` does."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(name, sink.getvalue())

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, or None if it does not exist."""
        filesystem, path = locate(self.folder)
        try:
            with filesystem.open_input_file(f"{path}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def table(self, name: str, columns: Sequence[str]) -> Any:
        """Read columns of a Parquet file as a `pyarrow.Table`."""
        filesystem, path = locate(self.folder)
        return pq.read_table(f"{path}/{name}", columns=list(columns), filesystem=filesystem)


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
                the scores, the first column has neither text nor bytes, or the folder belongs to
                another job.
        """
        if conflict := name_conflict(columns):
            raise JobError(conflict)
        files = [_describe(file, columns) for name in inputs for file in _parquet_files(name)]
        description = {
            "columns": list(columns),
            "rows_per_part": rows_per_part,
            "checkpoint_sha256": checkpoint_sha256,
            "files": files,
        }
        store = Store(output)
        _claim(store, description)
        spans = [
            (file["file"], start, min(rows_per_part, file["rows"] - start))
            for file in files
            for start in range(0, file["rows"], rows_per_part)
        ]
        parts = (Part(f"part-{i:06d}.parquet", *span) for i, span in enumerate(spans))
        return cls(tuple(parts), store)

    def pending(self) -> list[Part]:
        """Return the parts whose scores have not been written yet."""
        done = self.store.names()
        return [part for part in self.parts if part.name not in done]

    def summary(self) -> dict[str, Any]:
        """Count the rows of all parts.

        Returns:
            `images`, `scored`, `failed`, `failed_by_kind` and `output`.

        Raises:
            JobError: the number of rows is not the number of images.
        """
        images = sum(part.rows for part in self.parts)
        rows, kinds = 0, dict[str, int]()
        for part in self.parts:
            table = self.store.table(part.name, ["error_kind"])
            rows += table.num_rows
            for entry in pc.value_counts(table["error_kind"].drop_null()).to_pylist():
                kinds[entry["values"]] = kinds.get(entry["values"], 0) + entry["counts"]
        if rows != images:
            raise JobError(
                f"{self.store.folder} has {rows:,} rows for {images:,} images; another program "
                "writes there. Start again with another --output."
            )
        failed = sum(kinds.values())
        return {
            "images": images,
            "scored": images - failed,
            "failed": failed,
            "failed_by_kind": kinds,
            "output": self.store.folder,
        }


def locate(name: str) -> tuple[Any, str]:
    """Return the file system and the path in it for a path or a URI like s3://bucket/folder."""
    if "://" in name:
        filesystem, path = fs.FileSystem.from_uri(name)
        return filesystem, path
    return fs.LocalFileSystem(), str(Path(name).resolve())


def _parquet_files(name: str) -> list[str]:
    """Return the Parquet files in a folder, in order, or the file itself."""
    try:
        filesystem, path = locate(name)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            return [name]
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise JobError(f"The input {name} cannot be read: {error}") from error
    files = sorted(entry.path for entry in found if entry.path.endswith(".parquet"))
    if not files:
        raise JobError(f"The folder {name} has no .parquet files.")
    scheme = name.partition("://")[0] + "://" if "://" in name else ""
    return [scheme + file for file in files]


def _describe(name: str, columns: Sequence[str]) -> dict[str, Any]:
    filesystem, path = locate(name)
    try:
        with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
            missing = [column for column in columns if column not in file.schema_arrow.names]
            if missing:
                raise JobError(
                    f"{name} has no column {missing[0]}; it has "
                    f"{', '.join(file.schema_arrow.names)}. Give another with --column or --keep."
                )
            kind = value_type(file.schema_arrow.field(columns[0]).type)
            if not (is_text(kind) or is_bytes(kind) or pa.types.is_null(kind)):
                raise JobError(
                    f"The column {columns[0]} of {name} has the type {kind}; expected paths or "
                    f"URIs (text), or the bytes of image files. {_advice(columns[0], kind)}"
                )
            return {"file": name, "bytes": source.size(), "rows": file.metadata.num_rows}
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"The input {name} cannot be read: {error}") from error


def value_type(kind: Any) -> Any:
    """Return the type of a column's values, also if they are encoded as a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: Any) -> bool:
    """Return whether a type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_bytes(kind: Any) -> bool:
    """Return whether a type is bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _advice(column: str, kind: Any) -> str:
    if pa.types.is_struct(kind):  # as the library `datasets` writes images
        fields = ", ".join(f"{column}.{field.name}" for field in kind)
        return f"Write one of its fields ({fields}) to a column of its own."
    return "Give another with --column."


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
