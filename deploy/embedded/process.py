"""One running tritonserver with its guard, from the launch to the last trace of it."""

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from embedded.errors import ServeError
from embedded.guard import (
    FAILED,
    READY,
    REAP_TIMEOUT_S,
    make_regions_private,
    remove_regions,
)
from embedded.launch import Launch, Ports, Tracing, metrics_address, server_options
from embedded.processes import file_of_stub, group_members, is_alive, reap_orphans
from embedded.runtime import TritonRuntime, find_runtime
from embedded.security import Security, write_key

_GUARD = Path(__file__).resolve().parent / "guard.py"
_GRACE_FACTOR = 1.5  # times the exit timeout: models are unloaded after it


class TritonServer:
    """Processes, shared memory and temporary files of one tritonserver."""

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        ports: Ports,
        log_file: Path | None,
        security: Security,
        launch: Launch,
        tracing: Tracing | None = None,
    ):
        """Launch the server with some models of a repository; it is not ready yet.

        Args:
            repository: folder of the models.
            models: names of those to load.
            ports: ports to listen on.
            log_file: file that the server writes to; None: stderr of this process.
            security: which services are closed, and how the server is reached.
            launch: how it is started.
            tracing: where to send traces.

        Raises:
            UnsupportedMachineError: it cannot run here.
            ServeError: the log, a key or a temporary file cannot be written.
        """
        runtime = find_runtime(launch.tritonserver)
        self._shm_prefix = launch.shm_prefix or f"ma-agiqa-{secrets.token_hex(6)}-"
        self._grace_s = _GRACE_FACTOR * launch.exit_timeout_s
        self._stubs: dict[int, Path] = {}
        self._key_files: list[Path] = []
        self.pid: int | None = None
        self._scratch = _scratch_folder()
        try:
            remove_regions(self._shm_prefix)  # of a server that was killed together with its guard
            admin_key = launch.admin_key or secrets.token_hex(16)
            command = [
                *(sys.executable, "-I", "-S", str(_GUARD)),
                *(str(self._scratch), self._shm_prefix, str(self._grace_s)),
                *(str(log_file or ""), str(runtime.tritonserver)),
                *server_options(
                    self._plain_path(repository), models, ports, self._shm_prefix, launch, tracing
                ),
                *self._lay_out_backends(runtime),
                *security.options(admin_key),
                *launch.options,
            ]
            with _open_log(log_file) as log:
                self._write_key(log_file and log_file.with_suffix(".key"), admin_key)
                self._write_key(launch.probe_key_file, security.closed_key)
                self._guard = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=runtime.environment(launch.cores)
                    | metrics_address(ports, launch.local_address),
                    start_new_session=True,  # Ctrl-C in the terminal is for the caller alone
                )
            self._stdin = cast(IO[bytes], self._guard.stdin)
            with cast(IO[bytes], self._guard.stdout) as stdout:
                pid_line = stdout.readline()  # empty if tritonserver could not be executed
            self.pid = int(pid_line) if pid_line else None
        except BaseException:
            if hasattr(self, "_stdin"):  # the guard runs
                self.stop()
            self._remove_files()
            raise

    def has_ended(self) -> bool:
        """Whether tritonserver has ended, by itself or because it was stopped."""
        reap_orphans(self._guard.pid)
        return self._guard.poll() is not None

    def mark_ready(self) -> None:
        """Grant the long grace period at the end, and note the processes of the models."""
        make_regions_private(self._shm_prefix)  # before the first image, as the guard does later
        self._tell_guard(READY)
        self.note_processes()

    def note_processes(self) -> None:
        """Take the processes that are alive now for those that have to be."""
        members = group_members(self.pid) if self.pid else set()
        files = {pid: file_of_stub(pid) for pid in members}
        self._stubs = {pid: file for pid, file in files.items() if file}

    def dead_models(self) -> list[str]:
        """Models with a process that has ended since it was noted; Triton starts none again."""
        return sorted({file.parent.parent.name for file in self._dead()})

    def halved_models(self) -> list[str]:
        """Models with such a process, of whose version another process is alive."""
        dead = self._dead()
        alive = {file for pid, file in self._stubs.items() if self.pid and is_alive(pid, self.pid)}
        return sorted({file.parent.parent.name for file in dead & alive})

    def _dead(self) -> set[Path]:
        """Files of the models with a process that has ended."""
        stubs = self._stubs.items()
        return {file for pid, file in stubs if self.pid and not is_alive(pid, self.pid)}

    def stop(self, failed: bool = False) -> None:
        """Have the guard stop and remove everything; do its work if it does not.

        Args:
            failed: the server hangs, and would use up the long grace period.
        """
        if failed:
            self._tell_guard(FAILED)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._guard.wait(self._grace_s + REAP_TIMEOUT_S + 5.0)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # the kernel then kills tritonserver
            self._guard.wait()
        if self._guard.returncode < 0 and self.pid:  # killed, before it could end the stubs
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        remove_regions(self._shm_prefix)
        self._remove_files()

    def _plain_path(self, repository: Path) -> Path:
        """The repository's path, or that of a link to it where Triton could not pass it on."""
        if _is_plain(repository):
            return repository
        link = self._scratch / "models"
        link.symlink_to(repository)
        return link

    def _lay_out_backends(self, runtime: TritonRuntime) -> list[str]:
        try:
            return runtime.lay_out_backends(self._scratch)
        except OSError as error:  # shutil.Error is one, and holds a list of those of every file
            reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
            raise ServeError(
                f"The backends, 3 MB, cannot be copied to {self._scratch} ({reason}): free some "
                "space there, name another folder by the variable TMPDIR, or raise `ulimit -f`."
            ) from error

    def _tell_guard(self, word: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, or stdin is closed
            self._stdin.write(word)
            self._stdin.flush()

    def _write_key(self, path: Path | None, key: str) -> None:
        if path:
            self._key_files.append(path)
            write_key(path, key)

    def _remove_files(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        for file in self._key_files:
            with contextlib.suppress(OSError):
                file.unlink()


def _is_plain(path: Path) -> bool:
    """Whether Triton can start a stub with this path: it is a word of a shell's command line."""
    return shlex.quote(str(path)) == str(path)


def _scratch_folder() -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="ma-agiqa-serve-"))
    except OSError as error:
        raise ServeError(f"No folder for temporary files can be made: {error}.") from error
    if not _is_plain(folder):
        folder.rmdir()
        raise ServeError(
            f"The folder for temporary files, {folder.parent}, has a space or another character "
            "in its path that Triton cannot pass on: name another by the variable TMPDIR."
        )
    return folder


def _open_log(log_file: Path | None) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    """Open the log, for this server alone; None stands for stderr of this process."""
    if log_file is None:
        return contextlib.nullcontext()
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = log_file.open("ab")
        if log_file.is_file():
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by the guard until its end
            os.truncate(log.fileno(), 0)
    except BlockingIOError:
        log.close()
        raise ServeError(
            f"Another server writes to the log file {log_file}: name another with --log-file."
        ) from None
    except OSError as error:
        raise ServeError(
            f"The log file {log_file} cannot be written ({error.strerror}): "
            "name another with --log-file."
        ) from error
    return log
