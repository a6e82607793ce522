"""Quantized weights on the disk, in a folder next to the files that they were made from."""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ma_agiqa.errors import DataError
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.files import explain_full_disk, replace_folder
from ma_agiqa.lmm.mplug_owl2.weight_files import (
    Named,
    config_file,
    read_tensors,
    weight_files,
    write_tensors,
)

logger = logging.getLogger(__name__)

_FORMAT = "1"  # of what is written; another one when quantization changes


def kept_tensors(
    source: str,
    kind: str,
    facts: Iterable[bytes],
    num_bytes: int,
    make: Callable[[], Iterator[Named]],
) -> Iterator[Named] | None:
    """Read quantized weights; if they are not on the disk, make and write them first.

    Args:
        source: hub id or folder of the weights that they are made from.
        kind: their format, which names the folder.
        facts: what else decides them: they are made again where this or a source file differs.
        num_bytes: their size.
        make: makes them.

    Returns:
        Their names and tensors, in mapped files; None where they cannot be written, and the log
        says why.
    """
    try:
        folder = _folder(source, kind, facts)
        with _locked(folder.parent):
            if not folder.exists():
                _write(folder, source, num_bytes, make)
    except (OSError, DataError) as error:
        logger.warning("Quantized weights are not kept for the next start: %s", error)
        return None
    logger.info("%s weights are read from %s.", kind, folder)
    return read_tensors(str(folder), stay_mapped=True)


def _folder(source: str, kind: str, facts: Iterable[bytes]) -> Path:
    """Name the folder by the hash of all that decides what is in it."""
    hashes, digest = FileHashes.of_user(), hashlib.sha256(_FORMAT.encode())
    files = [config_file(source), *weight_files(source)]
    for fact in (*(hashes.sha256(file).encode() for file in files), *facts):
        digest.update(hashlib.sha256(fact).digest())
    hashes.save()
    return files[0].parent / f"{kind}-{digest.hexdigest()[:16]}"


def _write(folder: Path, source: str, num_bytes: int, make: Callable[[], Iterator[Named]]) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < 1.1 * num_bytes:
        raise DataError(
            f"{num_bytes / 1e9:.1f} GB are needed in {folder.parent}, {free / 1e9:.1f} are free."
        )
    logger.warning(
        "Quantizing %s once: %.1f GB are written to %s, which makes the next start faster. The "
        "folder may be deleted.",
        source,
        num_bytes / 1e9,
        folder,
    )
    with explain_full_disk(folder.parent), replace_folder(folder) as part:
        write_tensors(part, {"made_from": source}, make())
    folder.chmod(0o755)  # a server may run as another user


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let other processes wait that would write the same."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
