"""Train the scorer and write its checkpoint folder.

The best epoch is the one with the highest validation SRCC + PLCC (paper §4.2); the checkpoint holds
its weights, and its metrics on every image of the validation and the test part. Missing features
are computed first. An interrupted run resumes, and ends with the same weights, when the same
command is given again.
"""

import dataclasses
import json
import sys
from typing import Any

import click
import torch

from ma_agiqa.commands._shared import Command, config_option, overrides_option, read_config
from ma_agiqa.torchrun import process_state
from ma_agiqa.train.training import train

_EPILOG = """\b
Examples:
  python -m ma_agiqa train --config training/configs/demo.yaml
  python -m ma_agiqa train --config training/configs/agiqa_3k.yaml --output runs/try \\
      --set optimization.epochs=3 --backbone-weights vit_base_patch8_224.safetensors
  torchrun --nproc-per-node 4 -m ma_agiqa train --config training/configs/aigcqa_20k.yaml
  tensorboard --logdir runs"""


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@config_option()
@click.option("--output", metavar="DIR", help="Checkpoint folder, instead of the config's.")
@click.option(
    "--backbone-weights",
    metavar="FILE",
    help="Initial weights of the ViT, instead of the config's: a file, 'timm' or 'none'.",
)
@click.option("--restart", is_flag=True, help="Start from scratch if an unfinished run exists.")
@click.option("--threads", type=int, metavar="N", help="Number of CPU threads. Default: all cores.")
@overrides_option
def main(
    config_path: str,
    output: str | None,
    backbone_weights: str | None,
    restart: bool,
    threads: int | None,
    overrides: tuple[str, ...],
) -> None:
    if threads:
        torch.set_num_threads(threads)
    config = read_config(config_path, overrides)
    given: dict[str, Any] = {"output": output, "backbone_weights": backbone_weights}
    config = dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})
    folder = train(config, restart, progress=sys.stderr.isatty())
    if process_state().is_main_process:
        metrics = json.loads((folder / "metrics.json").read_text())
        click.echo(json.dumps({"checkpoint": str(folder), **metrics}, indent=2))
