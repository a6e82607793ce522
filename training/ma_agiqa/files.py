"""Files that are whole or not there, and a full disk said in a sentence."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ma_agiqa.errors import DataError

__all__ = ["explain_full_disk", "write_whole"]

_CODES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WORDS = [os.strerror(code) for code in sorted(_CODES)]
_TORCH_WORDS = ("PytorchStreamWriter failed", "file write failed")


def write_whole(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file beside its place and move it there; makes its folder.

    Raises:
        DataError: it cannot be written; what was there before is kept.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path


@contextmanager
def explain_full_disk(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of a disk that takes no more into one that says what to do.

    Args:
        folder: that is written to.

    Raises:
        DataError: the disk is full, or its quota used up.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else None
        if code not in _CODES and not any(w in str(error) for w in (*_WORDS, *_TORCH_WORDS)):
            raise
        raise DataError(
            f"The disk of {folder} takes no more: {error}. {_free(Path(folder))} is free. Make "
            "room and give the same command again; what was finished is kept."
        ) from error


def _free(folder: Path) -> str:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return f"{shutil.disk_usage(place).free / 1e9:.1f} GB"
