"""Which files the command line scores."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = ["EXTENSIONS", "Found", "find_images"]

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings, in any case, by which images in a folder are recognised."""


@dataclass
class Found:
    """What a search found.

    Attributes:
        images: paths as the user would write them, in order, each once.
        problems: (path, reason) for each folder that could not be read.
    """

    images: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def find_images(paths: Iterable[str]) -> Found:
    """Collect images: folders with all their subfolders, and files named explicitly.

    In folders only files with one of `EXTENSIONS` count, and names that begin with a dot are
    passed over. A file named explicitly counts whatever its name.
    """
    found = Found()
    seen: set[str] = set()
    for path in paths:
        for image in _in_folder(path, found) if os.path.isdir(path) else (path,):
            identity = os.path.abspath(image)
            if identity not in seen:
                seen.add(identity)
                found.images.append(image)
    return found


def _in_folder(top: str, found: Found) -> Iterator[str]:
    def note(error: OSError) -> None:
        reason = f"The folder cannot be read: {error.strerror}."
        found.problems.append((str(error.filename), reason))

    for folder, subfolders, files in os.walk(top, onerror=note):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                yield os.path.join(folder, name)
