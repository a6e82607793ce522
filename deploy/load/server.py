"""The server that a benchmark measures: a running one, or one started for it; and what it takes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import psutil

from embedded.errors import ServeError
from embedded.processes import group_members, model_of_stub
from embedded.server import REPOSITORY_ROOT, EmbeddedTriton
from load.generator import LoadError, Target

url_option = click.option(
    "--url", metavar="HOST:PORT", help="gRPC port of a running server; default: start one here."
)
repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=REPOSITORY_ROOT / "model_repository",
    show_default="model_repository of this checkout",
    help="Models of the server that is started.",
)
images_option = click.option(
    "--images",
    "paths",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    default=(REPOSITORY_ROOT / "examples",),
    show_default="examples of this checkout",
    help="A file or a folder of images, sent in turn; repeatable.",
)


def positive(name: str, default: float, help: str) -> Callable[[Any], Any]:
    """Make an option for a positive number."""
    above_zero = click.FloatRange(min=0, min_open=True)
    return click.option(name, type=above_zero, default=default, show_default=True, help=help)


def report(text: str) -> None:
    """Report progress on stderr."""
    click.echo(text, err=True)


@contextmanager
def connect(
    url: str | None, repository: Path, images: int = 1
) -> Iterator[tuple[Target, EmbeddedTriton | None]]:
    """Connect to a server, or start the embedded one on free ports and stop it at the end.

    Args:
        url: HOST:PORT of a running server; None starts one.
        repository: models to serve, if one is started.
        images: number of images in a request.

    Raises:
        LoadError: the server cannot be used, or does not start.
    """
    server = None if url else EmbeddedTriton(repository, free_ports=True)
    try:
        if server:
            server.start()
        with Target(server.grpc_url if server else str(url), images) as target:
            target.check()
            yield target, server
    except ServeError as error:
        raise LoadError(str(error)) from error
    finally:
        if server:
            server.stop()


def cpu_s(server: EmbeddedTriton) -> dict[str, float]:
    """Seconds of CPU time so far, by `tritonserver` and name of the model."""
    return _by_process(server, lambda process: sum(process.cpu_times()[:2]))


def memory_mib(server: EmbeddedTriton) -> dict[str, float]:
    """Memory by `tritonserver` and name of the model; shared memory is divided among its users."""
    return _by_process(server, lambda process: process.memory_full_info().pss / 2**20)


@contextmanager
def memory_samples(
    server: EmbeddedTriton | None, interval_s: float
) -> Iterator[list[dict[str, float]]]:
    """Fill a list with `memory_mib` at intervals; without a server it stays empty."""
    samples: list[dict[str, float]] = []
    end = threading.Event()

    def sample() -> None:
        while server and not end.wait(interval_s):
            samples.append(memory_mib(server))

    if server:
        samples.append(memory_mib(server))
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        end.set()
        thread.join()


def _by_process(
    server: EmbeddedTriton, value: Callable[[psutil.Process], float]
) -> dict[str, float]:
    values: dict[str, float] = {}
    for pid in group_members(server.pid):
        name = model_of_stub(pid) or "tritonserver"
        try:
            values[name] = values.get(name, 0.0) + value(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue  # it has just ended
    return values
