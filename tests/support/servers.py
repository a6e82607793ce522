"""Embedded servers for tests, which end at once."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedded.server import EmbeddedTriton

SHIPPED = Path(__file__).resolve().parents[2] / "model_repository"


@contextmanager
def serving(
    repository: Path, *, at: EmbeddedTriton | None = None, **options: Any
) -> Iterator[EmbeddedTriton]:
    """Serve a repository on free ports until the context ends, which kills the server.

    Args:
        repository: folder of the models.
        at: a server that was stopped, at whose ports this one listens.
        options: further ones of `EmbeddedTriton`.
    """
    if at is None:
        options["free_ports"] = True
    else:
        options |= {f"{service}_port": port for service, port in at.ports._asdict().items()}
    with tempfile.TemporaryDirectory(prefix="ma-agiqa-test-") as folder:
        options.setdefault("log_file", Path(folder) / "server.log")
        with EmbeddedTriton(repository, **options) as server:
            try:
                yield server
            finally:
                kill(server)


def stop(server: EmbeddedTriton) -> None:
    """Stop a server in order, as deploy/serve.py does on SIGTERM, which takes seconds."""
    server.drain(60)
    server.stop()


def kill(server: EmbeddedTriton) -> None:
    """Kill a server as a crash does."""
    if server.is_running():
        os.kill(server.pid, signal.SIGKILL)
    server.stop()
