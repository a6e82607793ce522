"""Search for the files to score."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File name extensions, in upper or lower case, of the images in a folder."""


@dataclass(frozen=True)
class Found:
    """An image, or a folder that could not be read.

    Attributes:
        path: the path, as the user would write it.
        problem: why the folder could not be read; None for an image.
    """

    path: str
    problem: str | None = None


def expand(argument: str) -> list[str]:
    """Turn an argument into paths: itself if it exists, or the matches of a glob like `**/*.png`.

    Raises:
        FileNotFoundError: it does not exist, or matches no file.
    """
    if os.path.lexists(argument):
        return [argument]
    if matches := sorted(glob.glob(argument, recursive=True)):
        return matches
    what = "matches no file" if glob.has_magic(argument) else "does not exist"
    raise FileNotFoundError(f"{argument!r} {what}. Expected an image, a folder or a glob.")


def split_list(data: bytes) -> list[str]:
    """Read a list of paths: one per line, or separated by null characters (`find -print0`)."""
    separator = b"\0" if b"\0" in data else b"\n"
    return [os.fsdecode(line) for line in data.split(separator) if line.strip()]


class Listing:
    """The images in some files and folders, in order, each only once.

    In folders, files without one of `EXTENSIONS` and names that begin with a dot are skipped. A
    file that is given explicitly is included whatever its name. A listing can be iterated several
    times: the folders are read again each time. Paths are kept in memory only if there are several
    arguments, to find duplicates.
    """

    def __init__(self, paths: Sequence[str], recursive: bool = True) -> None:
        """Prepare.

        Args:
            paths: files and folders.
            recursive: whether to search subfolders.
        """
        self._paths = paths
        self._recursive = recursive

    def __iter__(self) -> Iterator[Found]:
        seen: set[str] = set()
        for path in self._paths:
            for found in self._in_folder(path) if os.path.isdir(path) else (Found(path),):
                if len(self._paths) > 1:
                    identity = os.path.abspath(found.path)
                    if identity in seen:
                        continue
                    seen.add(identity)
                yield found

    def _in_folder(self, top: str) -> Iterator[Found]:
        problems: list[Found] = []

        def note(error: OSError) -> None:
            reason = f"The folder cannot be read: {error.strerror}."
            problems.append(Found(str(error.filename), reason))

        for folder, subfolders, files in os.walk(top, onerror=note):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            if not self._recursive:
                subfolders.clear()
            for name in sorted(files):
                if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                    yield Found(os.path.join(folder, name))
        yield from problems
