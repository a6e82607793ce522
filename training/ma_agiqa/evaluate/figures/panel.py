"""Images that a model gets wrong, with the scores of both models under them (paper Fig. 7)."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ma_agiqa.data.table import FIRST_ROW
from ma_agiqa.errors import DataError, ImageError
from ma_agiqa.evaluate.figures.style import (
    BASELINE,
    CURVE,
    OURS,
    WIDTH_INCHES,
    caption,
    errors,
    shorten,
    styled,
    thumbnail,
)
from ma_agiqa.images.views import RGB, decode

PANEL_IMAGES = 8
"""Images of a panel where nothing else is asked for."""

_COLUMNS = 4
_LINE = 0.115  # height of a line of text, as a share of the image's height


def choose_images(
    frame: pd.DataFrame, baseline: pd.DataFrame, count: int = PANEL_IMAGES
) -> pd.Index:
    """Rows of the images on which the baseline is furthest from the MOS and the model is nearer.

    Args:
        frame, baseline: predictions of the same images in the same order.
        count: at most this many, the furthest first.
    """
    theirs = errors(baseline)
    nearer = theirs[errors(frame) < theirs]
    return nearer.sort_values(ascending=False, kind="stable").index[:count]


def draw_panel(
    frame: pd.DataFrame,
    baseline: pd.DataFrame,
    images: Path,
    name: str,
    baseline_name: str,
    count: int = PANEL_IMAGES,
) -> Figure:
    """Draw the images that `choose_images` finds, each with its MOS and both scores.

    Args:
        frame, baseline: predictions of the same images in the same order.
        images: folder of the image files.
        name, baseline_name: names of the models.
        count: number of images to show.

    Raises:
        DataError: the model is nowhere nearer than the baseline, or an image cannot be read; the
            message names it and its row.
    """
    chosen = choose_images(frame, baseline, count)
    if not len(chosen):
        raise DataError(f"{name} is on no image nearer to the MOS than {baseline_name}.")
    rows = -(-len(chosen) // _COLUMNS)
    with styled():
        figure = Figure((WIDTH_INCHES, 0.75 + 2.35 * rows), layout="constrained")
        grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, row in zip(grid, chosen, strict=False):
            pixels = _read(images / frame.loc[row, "image"], frame.index.get_loc(row))
            lines = (
                ("MOS", frame.loc[row, "mos"], CURVE),
                (baseline_name, baseline.loc[row, "score"], BASELINE),
                (name, frame.loc[row, "score"], OURS),
            )
            _draw_image(axes, pixels, lines)
        heading = f"Where {baseline_name} is furthest from the MOS, and {name} nearer"
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
        nearer = int((errors(frame) < errors(baseline)).sum())
        caption(
            figure,
            f"Shown: of the {nearer:,} images (of {len(frame):,}) on which {name} is nearer to the "
            f"MOS,\nthe {len(chosen)} on which {baseline_name} is furthest from it.",
        )
    return figure


def _read(path: Path, position: int) -> RGB:
    try:
        return thumbnail(decode(path.read_bytes()))
    except (OSError, ImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"Row {position + FIRST_ROW} of the predictions: cannot read {path}: {reason}"
        ) from error


def _draw_image(axes: Axes, pixels: RGB, lines: tuple[tuple[str, float, str], ...]) -> None:
    """Put an image at the bottom of a square of side 1, and the lines of text under it."""
    height, width = np.array(pixels.shape[:2]) / max(pixels.shape[:2])
    left = (1 - width) / 2
    axes.imshow(pixels, extent=(left, left + width, 0, height), aspect="equal")
    for place, (label, value, color) in enumerate(lines):
        y = -_LINE * (place + 0.35)
        style: dict[str, Any] = {"va": "top", "color": color, "fontsize": 9}
        axes.text(0, y, shorten(label), ha="left", **style)
        axes.text(1, y, f"{value:.2f}", ha="right", **style)
    axes.set(xlim=(0, 1), ylim=(-_LINE * (len(lines) + 0.5), 1))
