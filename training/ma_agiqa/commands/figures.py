"""Draw figures of predictions: scores against the MOS, and the weights of the gate.

With --baseline also where another model is furthest from the MOS (paper Fig. 6), and with --images
what these images look like (Fig. 7).
"""

import logging
from pathlib import Path

import click
import pandas as pd

from ma_agiqa.commands._shared import Command
from ma_agiqa.errors import DataError
from ma_agiqa.evaluate.figures.differences import WORST, draw_differences
from ma_agiqa.evaluate.figures.gates import draw_gates
from ma_agiqa.evaluate.figures.panel import PANEL_IMAGES, draw_panel
from ma_agiqa.evaluate.figures.scatter import draw_scatter
from ma_agiqa.evaluate.figures.style import FORMATS, save
from ma_agiqa.evaluate.predictions import align_predictions, has_gates, read_predictions
from ma_agiqa.metrics.agreement import fit_logistic, logistic

_EPILOG = """\b
Examples:
  python -m ma_agiqa figures --predictions evaluation/predictions.csv --output figures
  python -m ma_agiqa figures --predictions ours.csv --baseline maniqa.csv --baseline-name MANIQA \\
      --images data/agiqa_3k/images --output figures"""


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@click.option(
    "--predictions",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Predictions of the model, as `python -m ma_agiqa evaluate` writes them.",
)
@click.option("--name", default="MA-AGIQA", show_default=True, help="Name of the model.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Predictions of another model for the same images.",
)
@click.option("--baseline-name", metavar="NAME", help="Name of that model. Default: its file's.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Folder of the image files.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR")
@click.option("--format", "kind", type=click.Choice(FORMATS), default="png", show_default=True)
@click.option(
    "--worst",
    default=WORST,
    show_default=True,
    type=click.IntRange(1),
    help="Number of images in the figure of differences.",
)
@click.option(
    "--panel-images",
    default=PANEL_IMAGES,
    show_default=True,
    type=click.IntRange(1, 40),
    help="Number of images in the panel.",
)
@click.option(
    "--fitted",
    is_flag=True,
    help="Compare scores after each model's logistic fit, for scores on another scale than MOS.",
)
def main(
    predictions: Path,
    name: str,
    baseline: Path | None,
    baseline_name: str | None,
    images: Path | None,
    output: Path,
    kind: str,
    worst: int,
    panel_images: int,
    fitted: bool,
) -> None:
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every letter of a PDF
    frame = read_predictions(predictions)
    figures, missing = {"scatter": draw_scatter(frame, name)}, []
    if has_gates(frame):
        figures["gates"] = draw_gates(frame, name)
    else:
        missing.append("gates (the predictions have no gate weights)")
    if baseline is None:
        missing.append("differences and panel (give --baseline)")
    else:
        theirs = align_predictions(read_predictions(baseline), frame, baseline)
        names = (name, baseline_name or baseline.stem)
        pair = (frame, theirs)
        if fitted:
            names = (f"{names[0]}, fitted", f"{names[1]}, fitted")
            pair = (_on_mos(frame), _on_mos(theirs))
        figures["differences"] = draw_differences(*pair, *names, worst)
        if images is None:
            missing.append("panel (give --images)")
        else:
            figures["panel"] = draw_panel(*pair, images, *names, panel_images)
    for stem, figure in figures.items():
        click.echo(save(figure, output / f"{stem}.{kind}"))
    for what in missing:
        click.echo(f"Not drawn: {what}.", err=True)


def _on_mos(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores after the logistic fit."""
    parameters = fit_logistic(frame["mos"], frame["score"])
    if parameters is None:
        raise DataError("--fitted: the logistic curve cannot be fitted to these scores.")
    return frame.assign(score=logistic(frame["score"], *parameters))
