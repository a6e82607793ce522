"""Files and folders that are written whole or not at all, hashes, and a full disk explained."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ma_agiqa.errors import DataError

_CODES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WORDS = [os.strerror(code) for code in sorted(_CODES)]
_TORCH_WORDS = ("PytorchStreamWriter failed", "file write failed")


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file next to its place and move it there; its folder is made.

    Args:
        path: where the file goes.
        content: its bytes, or a text that is written as UTF-8.

    Raises:
        DataError: the file cannot be written; a file that was there before is kept.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path


@contextmanager
def replace_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder next to its place and move it there at the end.

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
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def explain_full_disk(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of a full disk into one that says what to do.

    Args:
        folder: what is written inside goes to this folder.

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


def _free(folder: Path) -> str:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return f"{shutil.disk_usage(place).free / 1e9:.1f} GB"
