"""The repository's own server in processes of its own, and the CPU time each of them takes."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from ma_agiqa.errors import ConfigError

__all__ = ["EmbeddedServer", "embedded_server", "find_serve_script"]

_STOP_TIMEOUT_S = 60.0
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server.

    Attributes:
        url: HOST:PORT of gRPC.
        pid: of `deploy/serve.py`, whose descendants are the server and its models.
        start_s: seconds from the command to the first scored image.
        log_file: what tritonserver and its models write.
    """

    url: str
    pid: int
    start_s: float
    log_file: Path

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU time so far, by `tritonserver` and name of model."""
        seconds: dict[str, float] = {}
        for process in psutil.Process(self.pid).children(recursive=True):
            name = _name(process.cmdline())
            if name:
                times = process.cpu_times()
                seconds[name] = seconds.get(name, 0.0) + times.user + times.system
        return seconds

    def memory_bytes(self) -> int:
        """Memory of the server and its models: what is theirs alone, and their shared memory."""
        processes = psutil.Process(self.pid).children(recursive=True)
        return sum(process.memory_full_info().pss for process in processes)


@contextmanager
def embedded_server(repository: Path, script: Path) -> Iterator[EmbeddedServer]:
    """Serve a repository on free loopback ports; everything is gone at the end.

    Args:
        repository: folder of the models.
        script: `deploy/serve.py`.

    Raises:
        ConfigError: the server does not start; says what it said.
    """
    command = [sys.executable, script, "--repository", repository, "--free-ports", "--json"]
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile("w+", encoding="utf-8") as said,
        subprocess.Popen(
            [*command, "--until-stdin-closes", "--log-file", Path(folder) / "log"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            encoding="utf-8",
        ) as process,
    ):
        try:
            line = process.stdout.readline() if process.stdout else ""
            elapsed_s = time.perf_counter() - start
            if not line:
                process.wait(_STOP_TIMEOUT_S)
                said.seek(0)
                raise ConfigError(f"The embedded server did not start: {said.read().strip()}")
            status = json.loads(line)
            log_file = Path(status["log_file"])
            yield EmbeddedServer(status["grpc_url"], process.pid, elapsed_s, log_file)
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait(_STOP_TIMEOUT_S)


def find_serve_script() -> Path:
    """Find `deploy/serve.py` of the clone that this package lies in.

    Raises:
        ConfigError: the package is installed without the clone.
    """
    script = Path(__file__).resolve().parents[3] / "deploy" / "serve.py"
    if not script.is_file():
        raise ConfigError(
            "This package is installed without the server. Start one in a clone of the repository "
            "(`python deploy/serve.py`) and give its address with --url HOST:PORT."
        )
    return script


def _name(command: list[str]) -> str | None:
    """`tritonserver`, the model that a stub runs, or None for other processes."""
    if not command:
        return None
    program = Path(command[0]).name
    if program == _STUB:
        return _model(Path(command[1]))
    return program if program == "tritonserver" else None


def _model(file: Path) -> str:
    """The model a stub was started for: the folder above the version, or else the backend's."""
    return file.parent.parent.name if file.parent.name.isdigit() else file.parent.name
