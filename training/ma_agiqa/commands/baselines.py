"""Compare the methods of the paper's Table 1 on a data set, with the paper's numbers beside.

Predictions of each method go to OUTPUT/predictions, the table to OUTPUT/baselines.md and .csv. A
method that finished is not run again. One whose code or weights are not on this machine is left
out of the table and named below it, with what to do.
"""

import sys
from pathlib import Path

import click
import torch

from ma_agiqa.commands._shared import Command, config_option, overrides_option, read_config
from ma_agiqa.data import PARTS
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.evaluate.baselines.checkouts import STAIRIQA_DATABASES
from ma_agiqa.evaluate.baselines.comparison import compare
from ma_agiqa.evaluate.baselines.loading import Options
from ma_agiqa.evaluate.baselines.methods import METHODS, TRAINABLE
from ma_agiqa.evaluate.baselines.results import to_markdown, write_tables

_EPILOG = """\b
Examples:
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml \\
      --output runs/agiqa_3k_baselines
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml \\
      --methods brisque,niqe,ilniqe --output runs/agiqa_3k_baselines
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml \\
      --methods hyperiqa,dbcnn --train --download --output runs/agiqa_3k_baselines
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml \\
      --predictions MA-AGIQA=runs/agiqa_3k/predictions.csv --output runs/agiqa_3k_baselines

\b
Exit status:
  0    the table is written; some methods may be left out
  1    nothing could be measured, or the settings or the data cannot be used
"""

_FILE = click.Path(path_type=Path)


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@config_option()
@overrides_option
@click.option(
    "--methods",
    default=",".join(METHODS),
    metavar="A,B,...",
    help=f"Methods to compare. Default: all of them, {','.join(METHODS)}.",
)
@click.option(
    "--part", type=click.Choice(PARTS), default="test", show_default=True, help="Of the split."
)
@click.option("--output", type=_FILE, required=True, help="Folder of predictions and table.")
@click.option(
    "--train",
    is_flag=True,
    help=f"Train those that the paper trains ({','.join(TRAINABLE)}) by the config's optimization.",
)
@click.option(
    "--predictions",
    multiple=True,
    metavar="NAME=FILE",
    help="Add a row for another model's predictions of the same part; repeatable.",
)
@click.option("--download", is_flag=True, help="Fetch missing weights; otherwise nothing is.")
@click.option("--device", help="Of networks. Default: cuda where there is one, else cpu.")
@click.option("--stairiqa", type=_FILE, metavar="FOLDER", help="Checkout of StairIQA's code.")
@click.option("--stairiqa-weights", type=_FILE, metavar="FILE", help="Its weights.")
@click.option(
    "--stairiqa-database",
    type=click.Choice(STAIRIQA_DATABASES),
    default="Koniq10k",
    show_default=True,
    help="Data set that the weights were trained on.",
)
@click.option("--baid", type=_FILE, metavar="FOLDER", help="Checkout of BAID's code.")
@click.option("--baid-weights", type=_FILE, metavar="FILE", help="Its weights.")
def main(
    config_path: str,
    overrides: tuple[str, ...],
    methods: str,
    part: str,
    output: Path,
    train: bool,
    predictions: tuple[str, ...],
    download: bool,
    device: str | None,
    **checkouts: Path | str | None,
) -> None:
    config = read_config(config_path, overrides)
    options = Options(
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        download=download,
        progress=sys.stderr.isatty(),
        **checkouts,  # type: ignore[arg-type]
    )
    chosen = [key.strip() for key in methods.split(",") if key.strip()]
    outcomes = compare(config, output, chosen, part, options, train, _given(predictions))
    write_tables(outcomes, config.data.name, part, output)
    if not any(outcome.metrics for outcome in outcomes):
        reasons = "\n".join(f"  {outcome.name}: {outcome.reason}" for outcome in outcomes)
        raise DataError(f"No method could be measured.\n{reasons}")
    click.echo(to_markdown(outcomes, config.data.name, part), nl=False)


def _given(texts: tuple[str, ...]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in texts]
    if wrong := ["".join(pair) for pair in pairs if not all(pair)]:
        raise ConfigError(f"--predictions {wrong[0]}: write NAME=FILE, such as MANIQA=maniqa.csv.")
    return {name: Path(file) for name, _, file in pairs}
