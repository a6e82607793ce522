"""What a process leaves behind that is killed, or finds the disk full, before one of its steps.

Python announces every call that changes files to audit hooks, before it is made. Hooks cannot be
removed, so the action runs in a process of its own.
"""

import errno
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CREATING = ("os.mkdir", "os.rename", "os.link", "os.symlink", "shutil.copyfile")
_CHANGING = (*_CREATING, "os.remove", "os.rmdir", "os.truncate", "ctypes.call_function")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Hook = Callable[[str], None]


def _call(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The name of a call that changes files, or None for another event."""
    if event == "open":
        _, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if mode else flags & _WRITING
        return "create" if writes else None
    return event if event in _CHANGING else None


def _run_hooked(action: Callable[[], object], hook: Hook) -> int:
    """Run an action in another process, which calls a hook before each change of a file."""
    child = os.fork()
    if child == 0:
        busy = False

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal busy
            call = None if busy else _call(event, arguments)
            if call:
                busy = True
                try:
                    hook(call)
                finally:
                    busy = False

        sys.addaudithook(audit)
        status = 0
        try:
            action()
            hook("end")
        except BaseException as error:
            traceback.print_exception(error)
            status = 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _digest(folder: Path) -> list[tuple[str, int, int, int]]:
    stats = [(str(p.relative_to(folder)), p.lstat()) for p in sorted(folder.rglob("*"))]
    return [(name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats]


def states_of(folder: Path, action: Callable[[], object], into: Path) -> list[Path]:
    """Copies of a folder in all the states that an action leaves it in between two changes.

    Args:
        folder: what a kill would leave behind.
        action: changes it; may fail.
        into: where the copies go, in the order of the states, the last after the action.
    """
    last: list[Any] = []

    def take(_: str) -> None:
        found = _digest(folder) if folder.is_dir() else None
        if found is not None and [found] != last:
            last[:] = [found]
            name = f"{len(list(into.iterdir())):03d}"
            shutil.copytree(folder, into / name, symlinks=True, copy_function=os.link)

    into.mkdir(parents=True)
    _run_hooked(action, take)
    return sorted(into.iterdir())


def fill_disk_after(calls: int, action: Callable[[], object]) -> bool:
    """Run an action whose disk is full after a number of changes; return whether it failed."""
    made = 0

    def check(call: str) -> None:
        nonlocal made
        made += 1
        if made > calls and (call in _CREATING or call == "create"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return _run_hooked(action, check) != 0


def kill_after(seconds: float, action: Callable[[], object]) -> bool:
    """Run an action in another process and kill it after a time, unless it has ended; say so."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
