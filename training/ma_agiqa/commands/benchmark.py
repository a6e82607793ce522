"""Command line: measure how fast the package is, see `ma_agiqa.benchmark`."""

import os
import sys

import click
import torch

from ma_agiqa.benchmark.dtypes import dtypes
from ma_agiqa.benchmark.training import TrainingSpeed, measure_training
from ma_agiqa.commands._shared import Command, config_option, overrides_option, read_config
from ma_agiqa.commands.benchmark_embedder import embedder
from ma_agiqa.commands.benchmark_preprocess import preprocess
from ma_agiqa.commands.benchmark_scorer import scorer

__all__ = ["main"]

_TRAIN_EPILOG = """\b
Examples:
  python -m ma_agiqa benchmark train --config training/configs/demo.yaml
  python -m ma_agiqa benchmark train --config training/configs/agiqa_3k.yaml --steps 200
  torchrun --nproc-per-node 2 -m ma_agiqa benchmark train --config training/configs/demo.yaml
"""


@click.group()
def main() -> None:
    """Measure how fast this package is on this machine."""


for command in (dtypes, embedder, preprocess, scorer):
    main.add_command(command)


@main.command(cls=Command, epilog=_TRAIN_EPILOG)
@config_option()
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Training steps to measure, after a short warm-up.",
)
@overrides_option
def train(config_path: str, steps: int, overrides: tuple[str, ...]) -> None:
    """Time real training steps, the loader alone, and the wait for data in a step.

    Trains a fresh scorer on the features of the run, which are made first where they are missing,
    and keeps nothing.
    """
    config = read_config(config_path, overrides)
    speed = measure_training(config, steps, progress=sys.stderr.isatty())
    if os.environ.get("RANK", "0") == "0":
        click.echo(_summary(speed))


def _summary(speed: TrainingSpeed) -> str:
    processes = f"{speed.processes} process{'es' if speed.processes > 1 else ''}"
    machine = f"{speed.device}, {processes} with {speed.threads} threads, torch {torch.__version__}"
    return (
        f"machine  {machine}\n"
        f"step     {speed.images_per_s:.1f} images/s: {speed.step_ms:.1f} ms for "
        f"{speed.batch_size} images, over {speed.steps} steps\n"
        f"loader   {speed.loader_images_per_s:,.0f} images/s alone\n"
        f"wait     {speed.wait_share:.1%} of a step waits for data ({speed.wait_ms:.2f} ms)"
    )


if __name__ == "__main__":
    main()
