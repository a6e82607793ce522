"""The processes of a tritonserver, read from /proc."""

import os
from contextlib import suppress
from pathlib import Path


def group_members(group: int) -> set[int]:
    """Pids of the living processes in a process group."""
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return {pid for pid in pids if is_alive(pid, group)}


def is_alive(pid: int, group: int) -> bool:
    """Whether `pid` is a process of this group, and not a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    # "pid (name) state parent group ..."; the name may hold spaces and brackets.
    state, _, its_group = text.rpartition(")")[2].split()[:3]
    return state not in ("Z", "X") and int(its_group) == group


def model_of_stub(pid: int) -> str | None:
    """Name of the model that a python stub runs; None for another process."""
    file = file_of_stub(pid)
    return file.parent.parent.name if file else None


def file_of_stub(pid: int) -> Path | None:
    """File of the model that a python stub runs, model/version/file; None for another process."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if len(command) < 2 or not command[0].endswith(b"triton_python_backend_stub"):
        return None
    return Path(command[1].decode(errors="replace"))


def reap_orphans(own_child: int) -> None:
    """As process 1 of a container, collect the zombies that other processes left behind.

    Args:
        own_child: pid of a child that the caller waits for.
    """
    with suppress(ChildProcessError):  # there are no children
        while os.getpid() == 1:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == own_child:
                return
            os.waitpid(ended.si_pid, 0)
