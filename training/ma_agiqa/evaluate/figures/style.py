"""The look of all figures, and writing them."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ma_agiqa.files import write_whole
from ma_agiqa.images.views import RGB

FORMATS = ("png", "pdf")

# Okabe and Ito's colors, which the color-blind can tell apart.
OURS, BASELINE, CURVE = "#0072B2", "#D55E00", "#000000"

MOS_LABEL = "mean opinion score (MOS)"

WIDTH_INCHES = 7.2
"""Width of a figure; at _DOTS_PER_INCH a little more than a README shows."""

_DOTS_PER_INCH = 160
_SIDE = 400  # pixels of the longer side of an image, enough for its place
_GRAY = "#555555"
_LONGEST_NAME = 18  # characters
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GRAY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": _GRAY,
    "ytick.color": _GRAY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "text.parse_math": False,  # names may hold dollar signs
}


def errors(frame: pd.DataFrame) -> pd.Series:
    """How far each score is from the MOS, in units of MOS."""
    return (frame["score"] - frame["mos"]).abs()


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Use the look for the figures made inside."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def caption(figure: Figure, text: str) -> None:
    """Write a gray text of one or more lines below everything else."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=_GRAY)


def shorten(text: str) -> str:
    """Cut a name that is longer than its place under a picture."""
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def thumbnail(rgb: RGB) -> RGB:
    """Make an image, uint8 (H, W, 3), so small that it still fills its place in a figure."""
    image = Image.fromarray(rgb)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure; its folder is made.

    Args:
        figure: a figure of this package.
        path: the file; its ending is one of FORMATS.

    Raises:
        DataError: the file cannot be written.
    """
    content = io.BytesIO()
    with styled():
        figure.savefig(content, format=Path(path).suffix[1:], dpi=_DOTS_PER_INCH)
    return write_whole(path, content.getvalue())
