"""The --resume file: finished scores, so that a run can continue where another one stopped.

It has one JSON object per line, written when the image is scored, so a killed run loses only the
images in flight. A line has the row, and what decides whether it is still valid: the model's
checksum, the reach of its intervals, and the absolute path, size and modification time of the file.
"""

import hashlib
import itertools
import json
import os
import stat
import sys
from typing import TypeAlias

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli.rows import Row, pack_map

Stamp: TypeAlias = tuple[int, int]
"""Size of a file in bytes, and its modification time in nanoseconds."""

_Key: TypeAlias = bytes

_MAX_LINE_BYTES = 1 << 20
_BEGINNING = b'{"image": "'  # of every line


class JournalError(Exception):
    """The file cannot be continued; it is not changed."""


class Journal:
    """Finished rows on disk; one short key per row is in memory."""

    def __init__(self, path: str, card: ModelCard, *, maps: bool = False) -> None:
        """Open or create the file, and lock it.

        An incomplete last line is removed: its image counts as not finished.

        Args:
            path: the JSONL file.
            card: the model that gives the scores.
            maps: whether a row counts as finished only if it has its patch map.

        Raises:
            JournalError: another run uses the file, it is another kind of file, or it has scores
                of another model.
            OSError: it cannot be read or written.
        """
        self._path = path
        self._card = card
        self._reach = card.calibration.reach if card.calibration else None
        self._offsets: dict[_Key, int] = {}
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            self._lock()
            self._load(maps)
        except BaseException:
            self._file.close()
            raise

    def find(self, image: str, prompt: str | None = None) -> Row | None:
        """Return the finished row of an image, or None if there is none or the file changed.

        A row of another prompt, or of one that was compared in another way, is none.
        """
        now = stamp(image)
        offset = None if now is None else self._offsets.get(_key(image, now, self._asked(prompt)))
        if offset is None:
            return None
        with open(self._path, "rb") as file:
            file.seek(offset)
            return Row.from_dict(json.loads(file.readline()))

    def add(self, row: Row, stamp: Stamp) -> None:
        """Write a scored row with the stamp that its file had before it was read.

        Raises:
            OSError: the line cannot be written.
        """
        size, modified_ns = stamp
        record = {
            **row.to_dict(),
            "checkpoint_sha256": self._card.checkpoint_sha256,
            "reach": self._reach,
            "path": os.path.abspath(row.image),
            "size": size,
            "modified_ns": modified_ns,
        }
        if row.map is not None:
            record["map"] = pack_map(row.map)
        if row.prompt is not None:
            record["asked"] = self._asked(row.prompt)
        line = memoryview(json.dumps(record, allow_nan=False).encode("ascii") + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        """Flush the file to disk and unlock it."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, prompt: str | None) -> str:
        """Describe how an image is compared with a prompt; empty without one."""
        return "" if prompt is None else f"{self._card.alignment}\0{prompt}"

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
                f"{self._path} is not a regular file. Give a regular file, or a new name."
            )
        offset = 0
        with open(self._path, "rb") as file:
            for number in itertools.count(1):
                line = file.readline(_MAX_LINE_BYTES)
                if len(line) == _MAX_LINE_BYTES:
                    raise self._malformed(number, f"it has more than {_MAX_LINE_BYTES} bytes")
                if not line.endswith(b"\n"):
                    if line[: len(_BEGINNING)] != _BEGINNING[: len(line)]:
                        raise self._malformed(number, "it does not begin like one")
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
            path = str(record.get("path", row.image))  # an earlier version wrote none
            key = _key(path, when, str(record.get("asked", "")))
        except Exception as error:  # whatever a line of another file leads to
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise self._malformed(number, reason) from error
        if (model, checksum) != (self._card.name, self._card.checkpoint_sha256):
            raise JournalError(
                f"{self._path} has scores of the model {model} (checksum {checksum[:12]}), but "
                f"the server has {self._card.name} ({self._card.checkpoint_sha256[:12]}). Scores "
                "of two models cannot be compared: serve the first model, or give another file."
            )
        # Intervals of another calibration are not kept: the image is scored again.
        if record.get("reach") == self._reach and (not maps or row.map is not None):
            self._offsets[key] = offset

    def _malformed(self, number: int, reason: str) -> JournalError:
        return JournalError(
            f"Line {number} of {self._path} is not a finished score ({reason}). "
            "Expected a file written by --resume; give another name."
        )


def stamp(image: str) -> Stamp | None:
    """Return the stamp of a file, or None if the file is not accessible."""
    try:
        status = os.stat(image)
    except (OSError, ValueError):  # ValueError: a null character in the path
        return None
    return status.st_size, status.st_mtime_ns


def _key(image: str, stamp: Stamp, asked: str) -> _Key:
    """Compute a digest, so that a million finished images fit in memory."""
    text = f"{os.path.abspath(image)}\0{stamp[0]}\0{stamp[1]}\0{asked}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
