"""Speed of the served ensemble, beside the same models called in one process.

Rounds of both alternate, so that whatever else the machine does falls on both alike; rates are
medians over the rounds. CPU time per image does not depend on what else runs, and its table by
process says where the time of serving goes.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ma_agiqa.benchmark._embedded_server import EmbeddedServer, embedded_server, find_serve_script
from ma_agiqa.benchmark._one_process import Layout, OneProcess, Rate
from ma_agiqa.benchmark._requests import Load, ServedEnsemble
from ma_agiqa.errors import ConfigError

__all__ = ["ServedSpeed", "measure_served", "read_files"]

_BATCHES = (1, 4, 8, 16, 32)
_Measured = TypeVar("_Measured", Load, Rate)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class ServedSpeed:
    """What was measured.

    Attributes:
        device: of the networks.
        loads: of the server, by concurrency: the one with the median rate of all rounds.
        layouts: rates of one process by layout, measured once to find the best of them.
        best: the layout with the highest rate.
        one_process: its rate, the median over the rounds.
        shares: by concurrency, the median over the rounds of the server's rate as a share of the
            rate in one process in the same round.
        start_s: of the embedded server; None for one that ran already.
        served_cpu_ms: CPU time of an image by process, at the highest concurrency; empty for a
            server that ran already. `client` is this process.
    """

    device: str
    loads: tuple[Load, ...]
    layouts: dict[Layout, Rate]
    best: Layout
    one_process: Rate
    shares: dict[int, float]
    start_s: float | None
    served_cpu_ms: dict[str, float]


def measure_served(
    repository: Path,
    images: Sequence[Path],
    concurrencies: Sequence[int],
    url: str | None = None,
    seconds: float = 5.0,
    rounds: int = 3,
    say: Callable[[str], None] = lambda _: None,
) -> ServedSpeed:
    """Measure a server and one process in turn.

    Args:
        repository: the model repository that is served.
        images: files or folders of images.
        concurrencies: how many requests are on their way.
        url: HOST:PORT of a server that serves it; None: start the embedded one.
        seconds: how long each load and each batch size is measured, in each round.
        rounds: how often.
        say: is told about progress.

    Raises:
        ConfigError: the repository, the server or the images cannot be used.
        DataError: an image is not scored.
    """
    files = read_files(images)
    with ExitStack() as stack:
        server = None
        if url is None:
            say("starting the embedded server")
            server = stack.enter_context(embedded_server(repository, find_serve_script()))
        ensemble = ServedEnsemble(server.url if server else str(url))
        stack.callback(ensemble.close)
        say("loading the models here")
        measurement = _Measurement(ensemble, OneProcess(repository), files, seconds, server)
        say("looking for the best layout of one process")
        measurement.find_layout()
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            measurement.round(concurrencies)
        return measurement.result()


def read_files(images: Sequence[Path]) -> list[bytes]:
    """Read the image files that are named, and those in the folders that are.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    paths: list[Path] = []
    for path in images:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        paths += inside if path.is_dir() else [path]
    if not paths:
        named = ", ".join(map(str, images)) or "none"
        raise ConfigError(f"No images were found (given: {named}). Name files or folders.")
    try:
        return [path.read_bytes() for path in paths]
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}.") from error


class _Measurement:
    """What all rounds gave."""

    def __init__(
        self,
        ensemble: ServedEnsemble,
        models: OneProcess,
        files: list[bytes],
        seconds: float,
        server: EmbeddedServer | None,
    ) -> None:
        self._ensemble, self._models, self._server = ensemble, models, server
        self._files = files * math.ceil(models.max_batch_size / len(files))
        self._seconds = seconds
        self._loads: dict[int, list[Load]] = {}
        self._rates: list[Rate] = []
        self._served_cpu_ms: list[dict[str, float]] = []

    def find_layout(self) -> None:
        """Try every batch size, with the cores on one batch or on one batch each."""
        cores = os.cpu_count() or 1
        divisions = {(1, cores), (cores, 1)} if self._models.device.type == "cpu" else {(2, 1)}
        self._layouts = {
            layout: self._models.time(self._files, layout, self._seconds / 4)
            for layout in (
                Layout(workers, threads, batch)
                for workers, threads in sorted(divisions)
                for batch in _BATCHES
                if batch <= self._models.max_batch_size
            )
        }
        self._best = max(self._layouts, key=lambda layout: self._layouts[layout].images_per_s)

    def round(self, concurrencies: Sequence[int]) -> None:
        """Measure one process, then the server at every concurrency, the highest first."""
        self._rates.append(self._models.time(self._files, self._best, self._seconds))
        for concurrency in sorted(concurrencies, reverse=True):
            before = self._cpu_s()
            load = self._ensemble.load(self._files, concurrency, self._seconds)
            self._loads.setdefault(concurrency, []).append(load)
            if concurrency == max(concurrencies):
                # The clock of a load leaves out its beginning and its end; CPU time does not.
                images = load.images + 2 * concurrency
                spent = {name: now - before[name] for name, now in self._cpu_s().items()}
                self._served_cpu_ms.append({n: s / images * 1000 for n, s in spent.items()})

    def result(self) -> ServedSpeed:
        """Take medians."""
        shares = {
            concurrency: statistics.median(
                load.images_per_s / rate.images_per_s
                for load, rate in zip(loads, self._rates, strict=True)
            )
            for concurrency, loads in sorted(self._loads.items())
        }
        names = self._served_cpu_ms[0] if self._server else {}
        return ServedSpeed(
            device=str(self._models.device),
            loads=tuple(_middle(self._loads[concurrency]) for concurrency in shares),
            layouts=self._layouts,
            best=self._best,
            one_process=_middle(self._rates),
            shares=shares,
            start_s=self._server.start_s if self._server else None,
            served_cpu_ms={
                name: statistics.median(spent[name] for spent in self._served_cpu_ms)
                for name in names
            },
        )

    def _cpu_s(self) -> dict[str, float]:
        server = self._server.cpu_s() if self._server else {}
        return {**server, "client": time.process_time()}


def _middle(measured: Sequence[_Measured]) -> _Measured:
    return sorted(measured, key=lambda one: one.images_per_s)[len(measured) // 2]
