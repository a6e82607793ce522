"""Runs tritonserver for `EmbeddedTriton`, and leaves nothing behind whatever happens to the caller.

    caller --stdin pipe--> guard --child--> tritonserver --children--> one stub per model instance

    python -I -S guard.py SCRATCH_FOLDER SHM_PREFIX GRACE_S COMMAND...

Writes the pid of tritonserver to stdout as one line. Stops it when stdin closes, which also happens
when the caller is killed: SIGTERM, then SIGKILL after the grace period. That is `SHORT_GRACE_S`
unless the caller has written `READY`, and again after `FAILED`. Then the guard kills what is left
of the process group, and removes the server's regions in /dev/shm and the scratch folder. If the
guard itself is killed, the kernel kills tritonserver, and the stubs follow.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

POLL_S = 0.1
SHORT_GRACE_S = 1.0
"""tritonserver handles SIGTERM only after it has loaded all models: waiting longer is no use."""
REAP_TIMEOUT_S = 5.0
READY, FAILED = b"R", b"F"

_libc = ctypes.CDLL(None, use_errno=True)


def remove_regions(prefix: str) -> None:
    """Remove the shared memory regions whose name begins with `prefix`."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def main(scratch_folder: str, shm_prefix: str, ready_grace_s: float, command: list[str]) -> int:
    """Run `command` until it ends or stdin closes; return its status (128 + n for signal n)."""
    stop_asked: list[bool] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop_asked.append(True))
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=2, preexec_fn=_own_group_bound_to(os.getpid())
        )
        os.write(1, f"{server.pid}\n".encode())
        is_ready = _wait_for_end(server.pid, stop_asked)
        _end(server.pid, ready_grace_s if is_ready else SHORT_GRACE_S)
        status = server.wait()
        _reap()
    finally:
        remove_regions(shm_prefix)
        shutil.rmtree(scratch_folder, ignore_errors=True)
    return 128 - status if status < 0 else status


def _own_group_bound_to(guard_pid: int) -> Callable[[], None]:
    """What the child does before exec: a group of its own, and SIGKILL when the guard is gone."""

    def prepare() -> None:
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard_pid:
            os._exit(1)

    return prepare


def _wait_for_end(pid: int, stop_asked: list[bool]) -> bool:
    """Wait until `pid` has ended or should stop; return whether it is ready by the last word."""
    word = FAILED
    while not stop_asked and not _has_ended(pid):
        readable, _, _ = select.select([0], [], [], POLL_S)
        if not readable:
            continue
        received = os.read(0, 64)
        if not received:
            break
        word = received[-1:]
    return word == READY


def _has_ended(pid: int) -> bool:
    """Whether `pid` has ended. It is not reaped, so that its pid keeps standing for its group."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(pid: int, grace_s: float) -> None:
    if not _has_ended(pid):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while not _has_ended(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _reap() -> None:
    """Wait for the stubs, which are this process's children once tritonserver is gone."""
    deadline = time.monotonic() + REAP_TIMEOUT_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
