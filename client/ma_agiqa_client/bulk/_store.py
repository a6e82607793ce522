"""Files of a job: on a disk that all nodes share, or in an object store.

A name is a path, or a URI that pyarrow opens, with the store's options as its query:
`s3://bucket/images/?endpoint_override=minio:9000&scheme=http`.
"""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ma_agiqa_client.errors import ClientError

P = ParamSpec("P")
T = TypeVar("T")

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before a store is asked again, each changed by up to a half at random."""

PARALLEL = 16
"""Requests to a store in flight, where many files are read."""

_LEGAL = "/%:@!$&'()*+,;=~"  # in the path of a URI, besides letters, digits and "_.-"
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class JobError(Exception):
    """The job cannot continue, because of its input or its output."""


class StoreError(ClientError):
    """A store does not give an image for now, such as 503 or a time-out: the image may be good."""


def locate(name: str) -> tuple[Any, str]:
    """Return the file system and the path in it. There is one file system for each store.

    Raises:
        ValueError: the URI is not one that pyarrow knows.
        OSError: the store does not answer.
    """
    if "://" not in name:
        return fs.LocalFileSystem(), str(Path(name).resolve())
    scheme, netloc, path, query = _split(name)
    filesystem, root = _store(scheme, netloc, query)
    return filesystem, root + unquote(path.lstrip("/"))


def _split(name: str) -> tuple[str, str, str, str]:
    """Split a URI; a "?" or "#" that no options follow is part of the path."""
    path, mark, query = name.rpartition("?")
    if not mark or "=" not in query or "/" in query.partition("=")[0]:
        path, query = name, ""
    scheme, _, rest = path.partition("://")
    netloc, slash, path = rest.partition("/")
    return scheme, netloc, quote(slash + path, safe=_LEGAL), query


@lru_cache(maxsize=64)
def _store(scheme: str, netloc: str, query: str) -> tuple[Any, str]:
    """Return a store's file system, and what paths in it begin with."""
    if scheme == "s3" and "allow_delayed_open" not in query:  # one request for a small file
        query = f"{query}&allow_delayed_open=true".lstrip("&")
    filesystem, path = fs.FileSystem.from_uri(urlunsplit((scheme, netloc, "/x", query, "")))
    return filesystem, path.removesuffix("x")


def with_options(name: str, table: str) -> str:
    """Give a URI without options those of the table it is in, if the scheme is the same."""
    scheme, _, _, query = _split(name)
    if query or "://" not in table or not (options := _split(table)[3]):
        return name
    return f"{name}?{options}" if _split(table)[0] == scheme else name


def patient(action: Callable[P, T]) -> Callable[P, T]:
    """Have a function called again, after growing pauses, where it fails because of the store.

    It raises an OSError as its last call did, or its first if that says that a file is not there.
    """

    @wraps(action)
    def patiently(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause_s in PAUSES_S:
            try:
                return action(*args, **kwargs)
            except _LASTING:
                raise
            except OSError:
                time.sleep(pause_s * random.uniform(0.5, 1.5))
        return action(*args, **kwargs)

    return patiently


@patient
def files_below(name: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the names of the files in a folder that end in a suffix, in order; or the file itself.

    Raises:
        OSError: there is no such folder, or the store does not answer.
    """
    filesystem, path = locate(name)
    if filesystem.get_file_info(path).type == fs.FileType.File:
        return [name]
    found = filesystem.get_file_info(fs.FileSelector(path.rstrip("/"), recursive=True))
    paths = sorted(
        entry.path
        for entry in found
        if entry.type == fs.FileType.File and entry.path.endswith(suffixes)
    )
    if "://" not in name:
        return paths
    uri = urlsplit(name)
    base = path.rstrip("/")
    return [
        urlunsplit(uri._replace(path=uri.path.rstrip("/") + quote(each[len(base) :], safe="/")))
        for each in paths
    ]


def is_below(name: str, folder: str) -> bool:
    """Return whether a file is in a folder, or in one below it."""
    (filesystem, path), (other, root) = locate(name), locate(folder)
    return bool(path.startswith(root.rstrip("/") + "/") and filesystem == other)


@patient
def read(name: str) -> bytes:
    """Read a file.

    Raises:
        OSError: it is not there, or the store did not give it after several requests.
        ValueError: the URI is not one that pyarrow knows.
    """
    return _content(*locate(name))


@dataclass(frozen=True)
class Store:
    """The folder of the scores."""

    folder: str

    @patient
    def names(self) -> set[str]:
        """Return the names of the finished files."""
        filesystem, path = locate(self.folder)
        selector = fs.FileSelector(path.rstrip("/"), allow_not_found=True)
        names = (entry.base_name for entry in filesystem.get_file_info(selector))
        return {name for name in names if not name.startswith(".")}

    @patient
    def has(self, name: str) -> bool:
        """Return whether a file is finished, by one request for it alone."""
        filesystem, path = self._locate(name)
        try:
            filesystem.open_input_file(path).close()  # asking for its kind would list, too
        except FileNotFoundError:
            return False
        return True

    def write(self, name: str, data: bytes) -> None:
        """Write a file completely or not at all; an older one is replaced.

        Raises:
            JobError: the file cannot be written.
        """
        try:
            self._write(name, data)
        except OSError as error:
            raise JobError(f"The scores cannot be written to {self.folder}: {error}") from error

    def write_table(self, name: str, table: Any) -> None:
        """Write a `pyarrow.Table` as Parquet, as `write` does."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(name, sink.getvalue())

    @patient
    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, or None if it does not exist."""
        try:
            return _content(*self._locate(name))
        except FileNotFoundError:
            return None

    @patient
    def table(self, name: str, columns: Sequence[str] | None = None) -> Any:
        """Read columns of a Parquet file, or all, as a `pyarrow.Table`."""
        filesystem, path = self._locate(name)
        with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
            return file.read(columns=None if columns is None else list(columns))

    def each(self, action: Callable[[str], T], names: Sequence[str]) -> list[T]:
        """Call an action for many files at the same time; return the results in order."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(action, names))

    @patient
    def _write(self, name: str, data: bytes) -> None:
        filesystem, path = self._locate(name)
        folder = path.rpartition("/")[0]
        local = isinstance(filesystem, fs.LocalFileSystem)
        # Object stores show only complete objects; on disks, a complete file is renamed.
        target = f"{folder}/.{name}.{uuid4().hex}" if local else path
        if local:
            filesystem.create_dir(folder)
        with filesystem.open_output_stream(target) as stream:
            stream.write(data)
        if local:
            filesystem.move(target, path)

    def _locate(self, name: str) -> tuple[Any, str]:
        filesystem, path = locate(self.folder)
        return filesystem, f"{path.rstrip('/')}/{name}"


def _content(filesystem: Any, path: str) -> bytes:
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())
