"""Files and folders written whole or not at all, JSON, hashes, and a full disk explained."""

import ctypes
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ma_agiqa.errors import DataError

_CODES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WORDS = [os.strerror(code) for code in sorted(_CODES)]
_TORCH_WORDS = ("PytorchStreamWriter failed", "file write failed")


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file next to its place, to the disk, and move it there; its folder is made.

    Args:
        path: where the file goes.
        content: its bytes, or a text that is written as UTF-8.

    Raises:
        DataError: the file cannot be written; a file that was there before is kept.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # another process may write it, too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path


def json_text(values: Any) -> str:
    """Write plain values as JSON, with null for numbers that are not finite."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {str(name): plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(values), indent=2, allow_nan=False) + "\n"


@contextmanager
def replace_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder next to its place and move it there at the end, in one step.

    After an error or a crash the folder is what it was before, or does not exist.

    Args:
        folder: where the result goes; it is replaced if it exists.

    Yields:
        An empty folder to write to.
    """
    folder = Path(folder).absolute()
    part, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for path in (*part.rglob("*"), part):
        _sync(path)
    shutil.rmtree(old, ignore_errors=True)
    if not folder.exists():
        os.replace(part, folder)
    elif not _exchange(part, folder):  # two steps, where the system knows no better
        os.replace(folder, old)
        os.replace(part, folder)
    _sync(folder.parent)
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def explain_full_disk(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of a full disk into one that says what to do.

    Args:
        folder: folder that the guarded code writes to.

    Raises:
        DataError: the disk is full, or the user's quota on it is used up.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else None
        if code not in _CODES and not any(w in str(error) for w in (*_WORDS, *_TORCH_WORDS)):
            raise
        raise DataError(
            f"The disk of {folder} is full: {error}. {_free(Path(folder))} is free. Free some "
            "space and run the same command again; what was finished is kept."
        ) from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash a file's content; 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[attr-defined]


def _sync(path: Path) -> None:
    """Have the system write a file or the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or its file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    names = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(here, names[0], here, names[1], exchange) == 0


def _free(folder: Path) -> str:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return f"{shutil.disk_usage(place).free / 1e9:.1f} GB"
