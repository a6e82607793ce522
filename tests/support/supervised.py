"""deploy/serve.py as a process of its own, for tests that harm it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from support.waiting import wait_until

SERVE = Path(__file__).resolve().parents[2] / "deploy" / "serve.py"


def processes_of(folder: Path, program: str = "") -> list[int]:
    """Living processes whose command line mentions a folder, and begins with a program or runs it.

    Unlike `Supervised.pids` it finds them, too, when what started them is gone.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            runs = [os.path.basename(word) for word in words[:4]]
            mine = process.pid != os.getpid() and any(str(folder) in word for word in words)
            if mine and program in (runs if program.endswith(".py") else ["", *runs[:1]]):
                found.append(process.pid)
    return found


class Supervised:
    """A running serve.py.

    Attributes:
        status: what its line of JSON says.
        url: HOST:PORT of gRPC.
        said: its lines on stderr, with the time each came.
    """

    def __init__(
        self,
        repository: Path,
        log_file: Path,
        *options: str,
        wrap: Sequence[str] = (),
        ready: bool = True,
    ):
        """Start it, and wait until it is ready unless that is not wanted."""
        self.process = subprocess.Popen(
            [
                *wrap,
                *(sys.executable, str(SERVE), "--free-ports", "--json"),
                *("--repository", str(repository), "--log-file", str(log_file), *options),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[tuple[float, str]] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if ready:
            self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        line = self.process.stdout.readline()
        assert line, self.text()
        self.status = json.loads(line)
        self.url = self.status["grpc_url"]

    def text(self) -> str:
        """All it said on stderr so far."""
        return "".join(line for _, line in self.said)

    def wait_for(self, words: str, since: int = 0) -> float:
        """Wait until it says something after its first `since` lines; return when it did."""
        wait_until(lambda: any(words in line for _, line in self.said[since:]))
        return next(when for when, line in self.said[since:] if words in line)

    def pids(self, program: str) -> list[int]:
        """Living processes below it whose command line begins with a program, or names a file."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                command = process.cmdline()[:2]
                if process.status() != psutil.STATUS_ZOMBIE and program in " ".join(command):
                    found.append(process.pid)
        return found

    def option(self, name: str) -> str:
        """The value of an option of its tritonserver."""
        command = psutil.Process(self.pids("tritonserver/bin")[0]).cmdline()
        return next(word.partition(name)[2] for word in command if name in word)

    def regions(self) -> list[Path]:
        """Its shared memory in /dev/shm."""
        return list(Path("/dev/shm").glob(f"{self.option('shm-region-prefix-name=')}*"))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(90)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return the exit status and all it said on stderr."""
        status = self.process.wait(60)
        self._listener.join()
        return status, self.text()

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append((time.monotonic(), line))


def kill(pid: int) -> float:
    """Kill a process; return when."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()
