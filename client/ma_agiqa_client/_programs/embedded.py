"""The clone's own server, for one run of the command line.

The client and `deploy/serve.py` share nothing but that script's command line: it prints one line of
JSON when it is ready, and stops when its standard input closes. So it also ends if this process is
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

__all__ = ["DEFAULT_URL", "embedded_server", "find_serve_script", "listens"]

DEFAULT_URL = "localhost:8001"

_STOP_TIMEOUT_S = 30.0
_CLONE = Path(__file__).resolve().parents[3]


def listens(url: str, timeout_s: float = 1.0) -> bool:
    """Whether anything accepts connections at HOST:PORT."""
    host, _, port = url.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s):
            return True
    except OSError:
        return False


def find_serve_script(clone: Path = _CLONE) -> Path:
    """Find `deploy/serve.py` of the clone that this package lies in.

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
    """Run the server on free loopback ports; stop it at the end, whatever happens.

    Args:
        script: `deploy/serve.py`.
        options: further ones of that script.

    Yields:
        HOST:PORT of its gRPC port, once it is ready.

    Raises:
        ServerUnavailableError: it did not start; the message holds its own words.
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
            start_new_session=True,  # Ctrl-C reaches this process only, which then stops it
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
        said = diagnostics.read().strip() or line.strip() or "it said nothing"
        raise ServerUnavailableError(
            f"The embedded server did not start (exit status {process.returncode}):\n{said}"
        ) from error


def _stop(process: "subprocess.Popen[str]") -> None:
    """Ask by closing its input, then with SIGTERM, then with SIGKILL."""
    with suppress(OSError):  # it is gone already
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
