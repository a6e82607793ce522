"""Runs tritonserver for `EmbeddedTriton`, and leaves nothing behind whatever happens to the caller.

    caller --stdin pipe--> guard --child--> tritonserver --children--> one stub per model instance
                             guard <--log pipe---/-----------------------/

    python -I -S guard.py SCRATCH_FOLDER SHM_PREFIX GRACE_S LOG_FILE COMMAND...

Writes the pid of tritonserver to stdout as one line. Stops it when stdin closes, which also happens
when the caller is killed: SIGTERM, then SIGKILL after the grace period. That is `SHORT_GRACE_S`
unless the caller has written `READY`, and again after `FAILED`. Then the guard kills what is left
of the process group, and removes the server's regions in /dev/shm and the scratch folder. If the
guard itself is killed, the kernel kills tritonserver, and the caller kills the stubs: not all of
them notice.

What tritonserver and its stubs print goes to stderr of the guard, within limits (`_Log`). LOG_FILE
is the file that stderr is, or empty where it is something else.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

POLL_S = 0.1
SHORT_GRACE_S = 1.0
"""tritonserver handles SIGTERM only after it has loaded all models: waiting longer is no use."""
REAP_TIMEOUT_S = 5.0
READY, FAILED = b"R", b"F"

OPEN_FILES = 65536
"""Each connection takes one; at its limit, tritonserver 2.51 logs 30 MB a second."""
LOG_BYTES_PER_S = 2**20
LOG_BURST_BYTES = 4 * 2**20
LOG_REPEATS = 100
LOG_FILE_BYTES = 64 * 2**20

_libc = ctypes.CDLL(None, use_errno=True)


def regions(prefix: str) -> list[Path]:
    """The shared memory regions whose name begins with `prefix`."""
    return list(Path("/dev/shm").glob(f"{prefix}*"))


def remove_regions(prefix: str) -> None:
    """Remove the shared memory regions whose name begins with `prefix`."""
    for region in regions(prefix):
        region.unlink(missing_ok=True)


def make_regions_private(prefix: str) -> None:
    """Take the regions away from other users: Triton makes them readable, whatever the umask."""
    for region in regions(prefix):
        with contextlib.suppress(OSError):
            region.chmod(0o600)


def previous_log(log_file: Path) -> Path:
    """Where a log goes when another begins in its place."""
    return log_file.with_suffix(".previous.log")


def main(
    scratch_folder: str, shm_prefix: str, ready_grace_s: float, log_file: str, command: list[str]
) -> int:
    """Run `command` until it ends or stdin closes; return its status (128 + n for signal n)."""
    stop_asked: list[bool] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop_asked.append(True))
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        _allow_many_files()
        source, target = os.pipe()
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=target,
            preexec_fn=_own_group_bound_to(os.getpid()),
        )
        os.close(target)
        log = threading.Thread(target=_Log(source, log_file).copy, daemon=True)
        log.start()
        os.write(1, f"{server.pid}\n".encode())
        is_ready = _wait_for_end(server.pid, stop_asked, shm_prefix)
        _end(server.pid, ready_grace_s if is_ready else SHORT_GRACE_S)
        status = server.wait()
        _reap()
        log.join(REAP_TIMEOUT_S)
    finally:
        remove_regions(shm_prefix)
        shutil.rmtree(scratch_folder, ignore_errors=True)
    return 128 - status if status < 0 else status


class _Log:
    """Copies a pipe to stderr, without lines that repeat or are too many.

    A file that has grown to `LOG_FILE_BYTES` becomes `previous_log`. Where nothing can be written,
    as on a full disk, the server continues without a log.
    """

    def __init__(self, source: int, log_file: str) -> None:
        self._source = source
        self._file = Path(log_file) if log_file else None
        self._budget, self._time_s = float(LOG_BURST_BYTES), time.monotonic()
        self._line, self._repeats, self._left_out = b"", 0, 0

    def copy(self) -> None:
        """Copy until every writer has closed the pipe."""
        rest = b""
        while chunk := os.read(self._source, 65536):
            *lines, rest = (rest + chunk).split(b"\n")
            self._write(b"".join(self._kept(lines)))
        self._write(b"".join(self._kept([rest] if rest else [])) + self._note())

    def _kept(self, lines: list[bytes]) -> Iterator[bytes]:
        now_s = time.monotonic()
        self._budget += (now_s - self._time_s) * LOG_BYTES_PER_S
        self._budget, self._time_s = min(self._budget, LOG_BURST_BYTES), now_s
        for line in lines:
            self._repeats = self._repeats + 1 if line == self._line else 0
            self._line = line
            if self._repeats > LOG_REPEATS or self._budget < 0:
                self._left_out += 1
            else:
                self._budget -= len(line) + 1
                yield self._note() + line + b"\n"

    def _note(self) -> bytes:
        count, self._left_out = self._left_out, 0
        why = b"they repeat, or are more than %d bytes a second" % LOG_BYTES_PER_S
        return b"(%d lines are left out here: %s)\n" % (count, why) if count else b""

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._file and os.fstat(2).st_size > LOG_FILE_BYTES:
                self._begin_again(self._file)
            while data:
                data = data[os.write(2, data) :]

    def _begin_again(self, file: Path) -> None:
        os.replace(file, previous_log(file))
        log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.dup2(log, 2)
        os.close(log)


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (OPEN_FILES, hard):  # root alone may raise the hard limit
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with contextlib.suppress(OSError, ValueError):
                enough = hard == resource.RLIM_INFINITY or hard >= wanted
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard if enough else wanted))
                return


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


def _wait_for_end(pid: int, stop_asked: list[bool], shm_prefix: str) -> bool:
    """Wait until `pid` has ended or should stop; return whether it is ready by the last word."""
    word = FAILED
    while not stop_asked and not _has_ended(pid):
        make_regions_private(shm_prefix)  # also of models that are loaded later
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
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4], sys.argv[5:]))
