"""The file of finished scores that lets a run go on where another one ended.

One JSON object per line, written when the image is scored, so a killed run loses no more than the
images under way. A line holds the row and what tells whether it still counts: the model's checksum,
and the size and time of the file.
"""

import hashlib
import itertools
import json
import os
import stat
import sys
from types import TracebackType
from typing import Any, TypeAlias

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli._rows import Row

__all__ = ["Journal", "JournalError", "Stamp", "stamp"]

Stamp: TypeAlias = tuple[int, int]
"""Size of a file in bytes, and the time of its last change in nanoseconds."""

_Key: TypeAlias = bytes

_LONGEST_LINE = 1 << 20


class JournalError(Exception):
    """The file cannot be continued; it is left as it is."""


class Journal:
    """Finished rows, on disk. In memory there is one short key per row."""

    def __init__(self, path: str, card: ModelCard, *, maps: bool = False) -> None:
        """Open or make the file, for this process alone.

        A last line that was cut off is removed: its image counts as not done.

        Args:
            path: the JSONL file.
            card: the model whose scores it holds.
            maps: whether a row counts as done only if it holds its patch maps.

        Raises:
            JournalError: another run uses the file, it is not such a file, or it holds scores of
                another model.
            OSError: it cannot be read or written.
        """
        self._path = path
        self._card = card
        self._offsets: dict[_Key, int] = {}
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            self._lock()
            self._load(maps)
        except BaseException:
            self._file.close()
            raise

    def find(self, image: str) -> Row | None:
        """The finished row of an image whose file did not change since."""
        now = stamp(image)
        offset = None if now is None else self._offsets.get(_key(image, now))
        if offset is None:
            return None
        with open(self._path, "rb") as file:
            file.seek(offset)
            return Row.from_dict(json.loads(file.readline()))

    def add(self, row: Row, stamp: Stamp) -> None:
        """Write a scored row with the stamp its file had before it was read.

        Raises:
            OSError: the line cannot be written.
        """
        size, modified_ns = stamp
        record = {
            **row.to_dict(),
            "checkpoint_sha256": self._card.checkpoint_sha256,
            "size": size,
            "modified_ns": modified_ns,
        }
        if row.patches:
            record["patches"] = row.patches.to_dict()
        line = memoryview(json.dumps(record, allow_nan=False).encode("ascii") + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        """Put everything on the disk and let other runs have the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(
                f"{self._path} is in use by another run. Wait for it, or give another file."
            ) from error

    def _load(self, maps: bool) -> None:
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise JournalError(
                f"{self._path} is no regular file. Give the name of one, or a new name."
            )
        offset = 0
        with open(self._path, "rb") as file:
            for number in itertools.count(1):
                line = file.readline(_LONGEST_LINE)
                if len(line) == _LONGEST_LINE:
                    raise self._strange(number, f"it has more than {_LONGEST_LINE} bytes")
                if not line.endswith(b"\n"):
                    break
                self._read(number, line, offset, maps)
                offset += len(line)
        self._file.truncate(offset)

    def _read(self, number: int, line: bytes, offset: int, maps: bool) -> None:
        try:
            record = json.loads(line)
            row = Row.from_dict(record)
            when = (int(record["size"]), int(record["modified_ns"]))
            model, checksum = row.model, str(record["checkpoint_sha256"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange(number, _reason(error)) from error
        if (model, checksum) != (self._card.name, self._card.checkpoint_sha256):
            raise JournalError(
                f"{self._path} holds scores of the model {model} (checksum {checksum[:12]}), but "
                f"the server has {self._card.name} ({self._card.checkpoint_sha256[:12]}). Scores "
                "of two models cannot be compared: serve the former model, or give another file."
            )
        if not maps or row.patches:
            self._offsets[_key(row.image, when)] = offset

    def _strange(self, number: int, reason: str) -> JournalError:
        return JournalError(
            f"Line {number} of {self._path} is not a finished score ({reason}). "
            "Expected a file that --resume wrote; give another name."
        )


def stamp(image: str) -> Stamp | None:
    """Size and time of a file; None if it cannot be asked."""
    try:
        status = os.stat(image)
    except (OSError, ValueError):  # ValueError: a null character in the path
        return None
    return status.st_size, status.st_mtime_ns


def _key(image: str, stamp: Stamp) -> _Key:
    """A digest, so that a million finished images fit in memory."""
    text = f"{os.path.abspath(image)}\0{stamp[0]}\0{stamp[1]}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _reason(error: Exception) -> str:
    shown: Any = f"no {error}" if isinstance(error, KeyError) else error
    return str(shown)
