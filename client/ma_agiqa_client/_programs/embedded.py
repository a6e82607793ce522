"""The embedded server of the clone, for one run of a program.

The client and `deploy/serve.py` share only that script's command line: it prints one line of JSON
when it is ready, and stops when its standard input closes, so it also stops if this process is
killed.
"""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ma_agiqa_client.errors import ServerUnavailableError

DEFAULT_URL = "localhost:8001"

_STOP_TIMEOUT_S = 30.0
_CLONE = Path(__file__).resolve().parents[3]


def listens(url: str) -> bool:
    """Return whether anything accepts connections at HOST:PORT."""
    host, _, port = url.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except OSError:
        return False


def find_serve_script(clone: Path = _CLONE) -> Path:
    """Find `deploy/serve.py` of the clone that contains this package.

    Raises:
        ServerUnavailableError: the package is installed without the clone.
    """
    script = clone / "deploy" / "serve.py"
    if not script.is_file():
        raise ServerUnavailableError(
            f"Nothing listens at {DEFAULT_URL}, and this client is installed without the server. "
            "Run `python deploy/serve.py` in a clone of the repository, or give the address of a "
            "running server with --url HOST:PORT."
        )
    return script


@contextmanager
def embedded_server(script: Path, *options: str) -> Iterator[str]:
    """Run the server on free loopback ports; it is stopped at the end in any case.

    Args:
        script: path of `deploy/serve.py`.
        options: additional options of that script.

    Yields:
        HOST:PORT of its gRPC port, once it is ready.

    Raises:
        ServerUnavailableError: it did not start; the message contains the server's own output.
    """
    fixed = ("--free-ports", "--json", "--until-stdin-closes")
    command = [sys.executable, str(script), *fixed, *options]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as diagnostics:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=diagnostics,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the server
        )
        try:
            yield _wait_until_ready(process, diagnostics)
        finally:
            _stop(process)


def _wait_until_ready(process: "subprocess.Popen[str]", diagnostics: IO[str]) -> str:
    line = process.stdout.readline() if process.stdout else ""
    try:
        return str(json.loads(line)["grpc_url"])
    except (ValueError, KeyError, TypeError) as error:
        _stop(process)
        diagnostics.seek(0)
        said = diagnostics.read().strip() or line.strip() or "it printed nothing"
        raise ServerUnavailableError(
            f"The embedded server did not start (exit status {process.returncode}):\n{said}"
        ) from error


def _stop(process: "subprocess.Popen[str]") -> None:
    """Close its input; if it does not stop, send SIGTERM, then SIGKILL."""
    with suppress(OSError):  # it has already stopped
        if process.stdin:
            process.stdin.close()
    for insist in (process.terminate, process.kill):
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            insist()
    process.wait()
    if process.stdout:
        process.stdout.close()
