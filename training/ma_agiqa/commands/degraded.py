"""Command line: write a set of damaged photographs, see `ma_agiqa.data.degraded`."""

from pathlib import Path

import click

from ma_agiqa.commands._shared import Command
from ma_agiqa.data.degraded.build import build, read_sources

_EPILOG = """\b
Examples:
  # The data set of the demo model; `make train-demo` fetches the photographs.
  python -m ma_agiqa degraded --photographs training/configs/demo_photographs.csv \\
    --folder data/photographs --output data/degraded --crops 2
"""


@click.command(cls=Command, epilog=_EPILOG)
@click.option(
    "--photographs",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file with the columns file and content (photograph or texture).",
)
@click.option(
    "--folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that the files are in.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to.",
)
@click.option("--crops", type=click.IntRange(1), default=4, show_default=True, help="Of each.")
@click.option(
    "--patterns",
    type=click.IntRange(0),
    default=12,
    show_default=True,
    help="Pictures without content, of each kind.",
)
@click.option("--seed", default=20, show_default=True, help="Seed of crops and damage.")
@click.option("--workers", type=int, default=2, show_default=True, help="Number of processes.")
def main(
    photographs: Path,
    folder: Path,
    output: Path,
    crops: int,
    patterns: int,
    seed: int,
    workers: int,
) -> None:
    """Write a data set of damaged photographs, rated by rule."""
    sources = read_sources(photographs, folder)
    click.echo(build(output, sources, crops, patterns, seed, workers))
