"""Train and compare the variants of the paper's ablations (Tables 3, 4 and 5).

Seven combinations of the three inputs, and concatenation instead of the mixture of experts. A
variant whose checkpoint exists, made with the same settings, is not trained again; the full model
is the config's own output. Everything else is as in the config: data, split, recipe, seed.
"""

import sys
from pathlib import Path

import click

from ma_agiqa.commands._shared import Command, config_option, overrides_option, read_config
from ma_agiqa.evaluate.ablation import VARIANTS, ablate, write_report
from ma_agiqa.torchrun import process_state

_EPILOG = """\b
Examples:
  python -m ma_agiqa ablate --config training/configs/agiqa_3k.yaml --output runs/agiqa_3k_ablation
  torchrun --nproc-per-node 4 -m ma_agiqa ablate --config training/configs/agiqa_3k.yaml \\
      --output runs/agiqa_3k_ablation
  python -m ma_agiqa ablate --config training/configs/agiqa_3k.yaml \\
      --output runs/agiqa_3k_fusion --variant full --variant concatenation"""


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@config_option()
@click.option(
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the variants' checkpoints, ablation.md and ablation.csv.",
)
@click.option(
    "--variant",
    "names",
    multiple=True,
    type=click.Choice([variant.name for variant in VARIANTS]),
    help="Only this variant; repeatable.",
)
@overrides_option
def main(
    config_path: str, output: Path, names: tuple[str, ...], overrides: tuple[str, ...]
) -> None:
    config = read_config(config_path, overrides)
    variants = [variant for variant in VARIANTS if not names or variant.name in names]
    cards = ablate(config, output, variants, progress=sys.stderr.isatty())
    if process_state().is_main_process:
        click.echo(write_report(cards, variants, config, output))
