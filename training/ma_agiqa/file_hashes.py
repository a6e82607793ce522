"""SHA-256 of files, computed once for each state of a file."""

import json
import os
import time
from pathlib import Path

from ma_agiqa.errors import DataError
from ma_agiqa.files import sha256, write_whole

_SETTLED_NS = 2 * 10**9  # file systems keep times coarsely: a newer file may still change unseen


class FileHashes:
    """SHA-256 of files, kept in a small JSON file between runs.

    A file is read again when its path, size, inode, time of modification or time of change differs
    from what was noted. Several threads may use one object.

    Args:
        cache: where the hashes are kept; a file that is missing or damaged counts as empty.
    """

    def __init__(self, cache: str | os.PathLike[str]) -> None:
        self._cache = Path(cache)
        self._known = _read(self._cache)
        self._changed = False

    @classmethod
    def of_user(cls) -> "FileHashes":
        """The hashes that this user's programs share, in the folder for caches."""
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return cls(Path(caches).expanduser() / "ma_agiqa" / "hashes.json")

    def sha256(self, path: str | os.PathLike[str]) -> str:
        """Hash of a file's content, in hexadecimal.

        Raises:
            OSError: the file cannot be read.
        """
        name = os.path.abspath(path)
        status = os.stat(name)
        state = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
        *noted, digest = self._known.get(name, [None])
        if noted == state:
            return str(digest)
        digest = sha256(name)
        if time.time_ns() - max(state[2:]) > _SETTLED_NS:
            self._known[name] = [*state, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Keep what was computed; where that cannot be written, it is computed again next time."""
        if not self._changed:
            return
        try:
            # What another process has kept meanwhile stays.
            write_whole(self._cache, json.dumps({**_read(self._cache), **self._known}))
            self._changed = False
        except DataError:
            return


def _read(cache: Path) -> dict[str, list[int | str]]:
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
