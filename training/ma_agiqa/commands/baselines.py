"""Score a data set by the methods of the paper's Table 1, and measure them.

Predictions of each method go to OUTPUT/<method>.csv, the table with the paper's numbers to
OUTPUT/report.md and metrics.json. A method that is finished is not run again. One whose code or
weights are not on this machine is left out and named, with what to do. Trained methods are
measured with published weights unless --train is given.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from ma_agiqa.commands._shared import Command, config_option, overrides_option, read_config
from ma_agiqa.commands.evaluate import predictions_option, resamples_option
from ma_agiqa.data import PARTS
from ma_agiqa.errors import DataError
from ma_agiqa.evaluate import Result, report, select_own, write_report
from ma_agiqa.evaluate.baselines import METHODS, Baseline, Options, run_baselines
from ma_agiqa.evaluate.baselines.methods import TRAINABLE
from ma_agiqa.evaluate.paper_results import METHODS as PAPER_METHODS
from ma_agiqa.evaluate.predictions import align_predictions, build_predictions, read_predictions
from ma_agiqa.evaluate.report import require_report_folder

_EPILOG = """\b
Examples:
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml \\
      --output runs/agiqa_3k_baselines
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml \\
      --methods brisque,niqe,ilniqe --output runs/agiqa_3k_baselines
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml \\
      --methods hyperiqa,dbcnn --train --download --output runs/agiqa_3k_baselines
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml --methods hyperiqa --train \\
      --test-config training/configs/aigcqa_20k.yaml --output runs/agiqa_3k_baselines
  python -m ma_agiqa baselines --config training/configs/agiqa_3k.yaml \\
      --predictions MA-AGIQA=runs/agiqa_3k-evaluation/predictions.csv \\
      --output runs/agiqa_3k_baselines

\b
Exit status:
  0    the table is written; some methods may be left out
  1    nothing could be measured, or the settings or the data cannot be used
"""


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
    "--part",
    type=click.Choice(PARTS),
    default="test",
    show_default=True,
    help="Part of the split to score.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the predictions and the table.",
)
@click.option(
    "--train",
    is_flag=True,
    help=f"Train those that the paper trains ({','.join(TRAINABLE)}) by the config's optimization.",
)
@click.option(
    "--test-config",
    metavar="FILE",
    help="Score the images of this config instead (paper Table 2).",
)
@predictions_option
@click.option("--download", is_flag=True, help="Fetch missing weights; otherwise nothing is.")
@click.option("--device", help="Where networks run. Default: cuda if there is one, else cpu.")
@resamples_option
def main(
    config_path: str,
    overrides: tuple[str, ...],
    methods: str,
    part: str,
    output: Path,
    train: bool,
    test_config: str | None,
    files: Sequence[tuple[str, Path]],
    download: bool,
    device: str | None,
    resamples: int,
) -> None:
    require_report_folder(output)
    config = read_config(config_path, overrides)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = Options(chosen, download, progress=sys.stderr.isatty())
    keys = [key.strip() for key in methods.split(",") if key.strip()]
    tested = read_config(test_config, ()) if test_config else None
    found = run_baselines(config, output, keys, part, options, train, tested)
    selection = select_own(tested or config, part)
    results = [
        Result.of(
            _name(one),
            one.frame,
            selection,
            method=one.method.name if one.trained == one.method.trained else None,
            trained_on=config.data.name if tested and one.trained else None,
            notes=(f"{one.origin}.",),
            resamples=resamples,
        )
        for one in found
        if one.frame is not None
    ]
    reference = build_predictions(selection.members, [0.0] * len(selection.members))
    for name, path in files:
        frame = align_predictions(read_predictions(path), reference, path)
        method = name if name in PAPER_METHODS else None
        results.append(Result.of(name, frame, selection, method=method, resamples=resamples))
    left_out = "\n".join(f"- {_name(one)}: {one.reason}" for one in found if one.frame is None)
    if not results:
        raise DataError(f"No method could be measured.\n{left_out}")
    write_report(results, output, predictions=False)
    click.echo(report(results), nl=False)
    if left_out:
        click.echo(f"\nLeft out:\n\n{left_out}")


def _name(baseline: Baseline) -> str:
    """Name of the row: that of the paper's table where the method is used as in the paper."""
    published = baseline.method.trained and not baseline.trained
    return f"{baseline.method.name} (published weights)" if published else baseline.method.name
