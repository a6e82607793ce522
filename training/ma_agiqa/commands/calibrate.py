"""Learn what the scores of a checkpoint are worth: intervals, and which pictures are familiar.

Training does this at its end; this command is for checkpoints that were trained before, or at
another level. The intervals come from the validation part of the checkpoint's own split, never from
its train or test part. What was learned goes into the checkpoint's folder, and with the next export
to the server.
"""

import json
from pathlib import Path

import click

from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.checkpoints.embedder_binding import check_binding
from ma_agiqa.commands._shared import Command, overrides_option, read_overrides
from ma_agiqa.evaluate.selection import saved_run
from ma_agiqa.train.calibrate import LEVEL, calibrate
from ma_agiqa.train.training import run_features

_EPILOG = """\b
Examples:
  python -m ma_agiqa calibrate training/checkpoints/demo
  python -m ma_agiqa calibrate runs/agiqa_3k --level 0.95"""


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=LEVEL,
    show_default=True,
    help="Probability with which an interval is to hold people's MOS.",
)
@overrides_option
def main(checkpoint: Path, level: float, overrides: tuple[str, ...]) -> None:
    _, card = load_scorer(checkpoint)
    config, images, split = saved_run(checkpoint, card, read_overrides(overrides))
    features = run_features(config, images)
    check_binding(card, features.store.identity, f"the features in {config.feature_folder}")
    record = calibrate(checkpoint, images, split, features, level)
    click.echo(json.dumps(record, indent=2))
