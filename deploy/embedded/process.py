"""One running tritonserver with its guard, from the launch to the last trace of it."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from embedded.errors import ServeError
from embedded.guard import READY_GRACE_S, REAP_TIMEOUT_S, remove_regions
from embedded.launch import Ports, Tracing, metrics_address, server_command
from embedded.processes import group_members, is_alive, model_of_stub
from embedded.runtime import find_runtime
from embedded.security import Security

__all__ = ["TritonServer"]

_GUARD = Path(__file__).resolve().parent / "guard.py"
_STOP_TIMEOUT_S = READY_GRACE_S + REAP_TIMEOUT_S + 5.0


class TritonServer:
    """Processes, shared memory and temporary files of one tritonserver."""

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        ports: Ports,
        log_file: Path,
        security: Security,
        tracing: Tracing | None = None,
    ):
        """Launch the server with some models of a repository; it is not ready yet.

        Raises:
            UnsupportedMachineError: it cannot run here.
            ServeError: the log cannot be written.
        """
        runtime = find_runtime()
        self._shm_prefix = f"ma-agiqa-{secrets.token_hex(6)}-"
        self._key_file = log_file.with_suffix(".key")
        self._stubs: dict[int, str] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="ma-agiqa-serve-"))
        try:
            runtime.lay_out_backends(self._scratch)
            with _open_log(log_file) as log:
                command = server_command(
                    runtime.tritonserver,
                    repository,
                    models,
                    self._scratch,
                    ports,
                    self._shm_prefix,
                    security,
                    _write_key(self._key_file),
                    tracing,
                )
                self._guard = subprocess.Popen(
                    [sys.executable, "-I", "-S", _GUARD, self._scratch, self._shm_prefix, *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**runtime.environment(), **metrics_address(ports)},
                    start_new_session=True,  # Ctrl-C in the terminal is for the caller alone
                )
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        self._stdin, stdout = _pipes(self._guard)
        with stdout:
            pid_line = stdout.readline()  # empty if tritonserver could not be executed
        self.pid = int(pid_line) if pid_line else None

    def has_ended(self) -> bool:
        """Whether tritonserver has ended, by itself or because it was stopped."""
        return self._guard.poll() is not None

    def mark_ready(self) -> None:
        """Grant the long grace period at the end, and note the processes of the models."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(b"R")
            self._stdin.flush()
        self.note_processes()

    def note_processes(self) -> None:
        """Take the processes that live now for those that have to."""
        members = group_members(self.pid) if self.pid else set()
        names = {pid: model_of_stub(pid) for pid in members}
        self._stubs = {pid: name for pid, name in names.items() if name}

    def dead_models(self) -> list[str]:
        """Models with a process that has ended since the last note; Triton starts none again."""
        if self.pid is None:
            return []
        stubs = self._stubs.items()
        return sorted({name for pid, name in stubs if not is_alive(pid, self.pid)})

    def stop(self) -> None:
        """Have the guard stop and remove everything; do its work if it does not."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._guard.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # the kernel then kills tritonserver
            self._guard.wait()
        remove_regions(self._shm_prefix)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._key_file.unlink(missing_ok=True)


def _write_key(path: Path) -> str:
    """Make a key, and leave it where only this user can read it."""
    key = secrets.token_hex(16)
    try:
        path.unlink(missing_ok=True)  # one that others have opened, or that leads elsewhere
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)
    except OSError as error:
        raise ServeError(
            f"The key file {path} cannot be written ({error.strerror}): "
            "name a log in another folder with --log-file."
        ) from error
    return key


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise ServeError("The guard was started without pipes.")
    return process.stdin, process.stdout


def _open_log(log_file: Path) -> IO[bytes]:
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        return log_file.open("wb")
    except OSError as error:
        raise ServeError(
            f"The log file {log_file} cannot be written ({error.strerror}): "
            "name another with --log-file."
        ) from error
