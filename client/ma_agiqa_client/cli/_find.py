"""Search for the files to score."""

import glob
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ma_agiqa_client._programs.console import printable
from ma_agiqa_client._wire.images import UnchangingFile
from ma_agiqa_client._wire.pictures import EXTENSIONS, OTHER_EXTENSIONS

MAP_ENDING = ".map.jpg"
"""How the names of the heatmaps of --maps end."""

COPIES_MARK = ".copies_of_ma-agiqa"
"""Name of a file that marks a folder of --copy-best."""

_MARKS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


@dataclass(frozen=True)
class Found(UnchangingFile):
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
    """Read a list of paths: one per line, or separated by null characters (`find -print0`).

    Lists of Windows are understood: byte-order marks, UTF-16, and carriage returns at line ends.

    Raises:
        ValueError: it seems to be in another encoding, so its paths cannot be known.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", None))
    if encoding is None and 4 * data.count(0) > len(data):
        even, odd = data[::2].count(0), data[1::2].count(0)
        encoding = None if even and odd else "utf-16-be" if even else "utf-16-le"
    if encoding:
        data = os.fsencode(data[len(mark) :].decode(encoding))
    if b"\0" not in data:
        return [_without_return(os.fsdecode(line)) for line in data.split(b"\n") if line.strip()]
    paths = [os.fsdecode(path) for path in data.split(b"\0") if path]
    if sum(len(path) == 1 for path in paths) > 1:
        raise ValueError("it has several paths of one character, as UTF-16 seems to have")
    return paths


class Listing:
    """The images in some files and folders, in order, each only once.

    In folders, files without one of `EXTENSIONS`, names that begin with a dot, links to folders and
    what earlier runs wrote are passed over. A file that is given explicitly is included whatever
    its name. A listing can be iterated several times: the folders are read again each time. Paths
    are kept in memory only if there are several arguments, to find duplicates.
    """

    def __init__(
        self, paths: Sequence[str], recursive: bool = True, own: Sequence[str | None] = ()
    ) -> None:
        """Prepare.

        Args:
            paths: files and folders.
            recursive: whether to search subfolders.
            own: folders that this run writes, which are not searched.
        """
        self._paths = paths
        self._recursive = recursive
        self._own = {os.path.realpath(folder) for folder in own if folder}
        self._passed_over: defaultdict[str, list[str]] = defaultdict(list)

    def __iter__(self) -> Iterator[Found]:
        self._passed_over.clear()
        seen: set[str] = set()
        for path in self._paths:
            for found in self._in_folder(path) if os.path.isdir(path) else (Found(path),):
                if len(self._paths) > 1:
                    identity = os.path.abspath(found.path)
                    if identity in seen:
                        continue
                    seen.add(identity)
                yield found

    def passed_over(self) -> str:
        """Return a sentence about what the last iteration passed over; empty if nothing."""
        if not self._passed_over:
            return ""
        kinds = (
            f"{len(paths)} {kind}, such as {printable(paths[0])}"
            for kind, paths in self._passed_over.items()
        )
        return f"Passed over: {'; '.join(kinds)}. To score such a file, give its own path."

    def _in_folder(self, top: str) -> Iterator[Found]:
        problems: list[Found] = []

        def note(error: OSError) -> None:
            reason = f"The folder cannot be read: {error.strerror}."
            problems.append(Found(str(error.filename), reason))

        for folder, subfolders, files in os.walk(top, onerror=note):
            subfolders[:] = [name for name in sorted(subfolders) if self._enters(folder, name)]
            for name in sorted(files):
                path, ending = os.path.join(folder, name), os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    continue
                if name.endswith(MAP_ENDING):
                    self._passed_over["maps of an earlier run"].append(path)
                elif ending in EXTENSIONS:
                    yield Found(path)
                elif ending in OTHER_EXTENSIONS or not ending:
                    kind = f"of the kind {ending}" if ending else "without an extension"
                    self._passed_over[kind].append(path)
        yield from problems

    def _enters(self, folder: str, name: str) -> bool:
        """Return whether to search a subfolder."""
        path = os.path.join(folder, name)
        if name.startswith(".") or not self._recursive or os.path.realpath(path) in self._own:
            return False
        if os.path.islink(path):
            self._passed_over["links to folders"].append(path)
            return False
        if os.path.lexists(os.path.join(path, COPIES_MARK)):
            self._passed_over["folders of copies by --copy-best"].append(path)
            return False
        return True


def _without_return(path: str) -> str:
    """Remove the carriage return of a line of Windows, unless a file has that name."""
    return path[:-1] if path.endswith("\r") and not os.path.lexists(path) else path
