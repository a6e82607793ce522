"""Whether the server's memory grows under load."""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from load.generator import ConstantLoad
from load.images import read_images
from load.server import connect, images_option, memory_samples, positive, repository_option

SAMPLES_AT_LEAST = 12
SAMPLE_S = 5.0


def growth(totals: Sequence[float]) -> float:
    """Growth from the second fifth of the samples to the last one; the first is warming up."""
    fifth = max(1, len(totals) // 5)
    before, after = totals[fifth : 2 * fifth], totals[-fifth:]
    return statistics.median(after) / statistics.median(before) - 1


@click.command()
@repository_option
@images_option
@positive("--minutes", 10.0, "How long.")
@click.option("--in-flight", default=4, show_default=True, help="Number of requests in flight.")
@positive("--limit", 2.0, "Fail if memory grows by this much, in percent.")
def soak(
    repository: Path, paths: tuple[Path, ...], minutes: float, in_flight: int, limit: float
) -> None:
    """Load the embedded server for some minutes; fail if its memory grows, or a request fails."""
    files = [image.data for image in read_images(paths)]
    interval_s = min(SAMPLE_S, 60 * minutes / SAMPLES_AT_LEAST)
    with (
        connect(None, repository) as (target, server),
        ConstantLoad(target, files, in_flight) as load,
        memory_samples(server, interval_s) as samples,
    ):
        time.sleep(60 * minutes)
    for name in [*sorted(samples[-1]), "all"]:
        series = [sum(s.values()) if name == "all" else s.get(name, 0.0) for s in samples]
        click.echo(f"{name:20} {series[0]:8.1f} -> {series[-1]:8.1f} MiB  {growth(series):+.2%}")
    errors = sum(answer.status is not None for answer in load.answers)
    click.echo(f"{minutes:g} min, {len(load.answers) - errors} images, {errors} errors")
    sys.exit(int(errors > 0 or 100 * growth(series) >= limit))
