"""Speed of the served ensemble, compared with the same models called in one process.

Rounds of both alternate, so that other work on the machine falls on both alike; rates are medians
over the rounds. CPU time per image does not depend on what else runs, and its table by process
shows where the time of serving goes.
"""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click
import torch

from embedded.server import REPOSITORY_ROOT, EmbeddedTriton
from load.generator import Load, Target, measure
from load.images import read_images
from load.one_process import Layout, OneProcess, Rate
from load.server import (
    connect,
    cpu_s,
    images_option,
    positive,
    report,
    repository_option,
    url_option,
)
from ma_agiqa.pipeline import ImageScorer

_Measured = TypeVar("_Measured", Load, Rate)
_EPILOG = """\b
Examples:
  python deploy/load/bench.py served
  python deploy/load/bench.py served --in-flight 1 --in-flight 32 --images my_images
  python deploy/load/bench.py served --url localhost:8001 --checkpoint runs/my_checkpoint
"""


@dataclass
class ServedSpeed:
    """What was measured.

    Attributes:
        layouts: rate of one process by layout, measured once to find the best layout.
        rates: rate of one process in its best layout, one per round.
        loads: what the server did, one per round, by number of requests in flight.
        cpu_ms: CPU time of an image by process, one per round, at the largest load; empty for a
            server that ran already. `client` is this process.
    """

    layouts: dict[Layout, Rate]
    rates: list[Rate] = field(default_factory=list)
    loads: dict[int, list[Load]] = field(default_factory=dict)
    cpu_ms: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> Layout:
        """The layout in which one process is fastest."""
        return max(self.layouts, key=lambda layout: self.layouts[layout].images_per_s)

    def share(self, in_flight: int) -> float:
        """The server's rate as a share of one process's, the median over the rounds."""
        pairs = zip(self.loads[in_flight], self.rates, strict=True)
        return statistics.median(load.images_per_s / rate.images_per_s for load, rate in pairs)


def measure_served(
    target: Target,
    models: OneProcess,
    files: Sequence[bytes],
    in_flight: Sequence[int],
    seconds: float,
    rounds: int,
    server: EmbeddedTriton | None = None,
) -> ServedSpeed:
    """Measure a server, alternating with one process.

    Args:
        target: the server.
        models: the same models in this process.
        files: encoded images.
        in_flight: numbers of requests in flight, each measured in every round.
        seconds: how long each measurement lasts.
        rounds: how often everything is measured.
        server: the server, if its CPU time can be read.

    Raises:
        LoadError: an image is not scored.
    """
    report("looking for the best layout of one process")
    layouts = {layout: models.time(files, layout, seconds / 4) for layout in models.layouts()}
    speed = ServedSpeed(layouts)
    for number in range(rounds):
        report(f"round {number + 1} of {rounds}")
        speed.rates.append(models.time(files, speed.best, seconds))
        for count in sorted(in_flight, reverse=True):
            before = _cpu_s(server)
            load = measure(target, files, count, seconds)
            speed.loads.setdefault(count, []).append(load)
            if server and count == max(in_flight):
                spent = {name: now - before[name] for name, now in _cpu_s(server).items()}
                speed.cpu_ms.append({n: s / load.all_images * 1000 for n, s in spent.items()})
    return speed


def _cpu_s(server: EmbeddedTriton | None) -> dict[str, float]:
    return {**(cpu_s(server) if server else {}), "client": time.process_time()}


@click.command(epilog=_EPILOG)
@url_option
@repository_option
@click.option(
    "--checkpoint",
    default=str(REPOSITORY_ROOT / "training" / "checkpoints" / "demo"),
    show_default="the demo's",
    help="Checkpoint that was exported to the repository, to call it in this process.",
)
@click.option("--embedder", help="Its prompt embedder; default: the one that its card names.")
@click.option("--dtype", default="float32", show_default=True, help="Type of its weights.")
@click.option("--device", default="cpu", show_default=True, help="Where this process computes.")
@click.option(
    "--in-flight",
    multiple=True,
    type=click.IntRange(min=1),
    default=(1, 8, 32),
    show_default=True,
    help="Number of requests in flight; repeatable.",
)
@images_option
@positive("--seconds", 5.0, "How long each measurement lasts in each round.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def served(
    url: str | None,
    repository: Path,
    checkpoint: str,
    embedder: str | None,
    dtype: str,
    device: str,
    in_flight: tuple[int, ...],
    paths: tuple[Path, ...],
    seconds: float,
    rounds: int,
) -> None:
    """Time the served ensemble over gRPC, alternating with the same models in one process."""
    files = [image.data for image in read_images(paths)]
    start = time.perf_counter()
    with connect(url, repository) as (target, server):
        start_s = time.perf_counter() - start
        models = OneProcess(ImageScorer.load(checkpoint, embedder, device, dtype))
        speed = measure_served(target, models, files, in_flight, seconds, rounds, server)
    name = torch.cuda.get_device_name() if models.on_gpu else "cpu"
    click.echo(f"machine      {name}, {os.cpu_count()} cores, torch {torch.__version__}")
    if server:
        click.echo(f"start        {start_s:.1f} s")
    click.echo(_table(speed))


def _table(speed: ServedSpeed) -> str:
    one = _median(speed.rates)
    lines = [
        f"one process  {one.images_per_s:.1f} images/s: {speed.best}",
        "",
        "in flight    images/s   p50 ms   p95 ms   p99 ms  share of one process",
    ]
    for count, loads in sorted(speed.loads.items()):
        load = _median(loads)
        latencies = "".join(f"{load.percentile_ms(percent):9.1f}" for percent in (50, 95, 99))
        lines.append(f"{count:11d}  {load.images_per_s:8.1f}{latencies}  {speed.share(count):.0%}")
    lines += ["", "one process, tried once                  images/s  CPU ms/image"]
    for layout, rate in speed.layouts.items():
        lines.append(f"  {layout!s:36s}{rate.images_per_s:11.1f}{rate.cpu_s * 1000:14.2f}")
    return "\n".join(lines + (_cpu_table(speed, one) if speed.cpu_ms else []))


def _cpu_table(speed: ServedSpeed, one: Rate) -> list[str]:
    spent = {name: statistics.median(cpu[name] for cpu in speed.cpu_ms) for name in speed.cpu_ms[0]}
    total, own = sum(spent.values()), one.cpu_s * 1000
    rows = {**spent, "all of these": total, f"one process: {speed.best}": own}
    return [
        "",
        f"served, {max(speed.loads)} requests in flight                     CPU ms/image",
        *(f"  {name:50s}{milliseconds:11.2f}" for name, milliseconds in rows.items()),
        f"  share of the time that is the models' own{own / total:20.0%}",
    ]


def _median(measured: Sequence[_Measured]) -> _Measured:
    return sorted(measured, key=lambda one: one.images_per_s)[len(measured) // 2]
