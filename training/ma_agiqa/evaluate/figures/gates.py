"""What the gate weighs (paper Eq. 4), by the generator of the images or by their MOS."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ma_agiqa.errors import DataError
from ma_agiqa.evaluate.figures.style import WIDTH_INCHES, caption, styled
from ma_agiqa.evaluate.measurement import fifths
from ma_agiqa.evaluate.predictions import GATE_COLUMNS, has_gates
from ma_agiqa.tensors import GATE_ORDER

_COLORS = ("#0072B2", "#D55E00", "#009E73")  # of semantic, coherence, quality


def draw_gates(frame: pd.DataFrame, name: str) -> Figure:
    """Draw median and quartiles of the three weights of each group of images.

    Groups are the generators, the one with the best images on top; without generators, fifths of
    the images by MOS.

    Args:
        frame: predictions with gates, see `ma_agiqa.evaluate.predictions`.
        name: name of the model.

    Raises:
        DataError: predictions without gates.
    """
    if not has_gates(frame):
        raise DataError(
            "The predictions have no gate weights; `python -m ma_agiqa evaluate --checkpoint` "
            "writes them."
        )
    known = frame[frame["generator"] != ""]
    if len(known):
        order, groups = "Generators by the mean MOS of their images", [*known.groupby("generator")]
        groups.sort(key=lambda group: group[1]["mos"].mean())
    else:
        order, groups = "Fifths by MOS", [(f"MOS {mos}", rows) for mos, rows in fifths(frame)]
    groups.reverse()  # the best on top
    with styled():
        figure = Figure((WIDTH_INCHES, 1.8 + 0.3 * len(groups)), layout="constrained")
        panels = figure.subplots(1, 3, sharex=True, sharey=True)
        for axes, column, word, color in zip(
            panels, GATE_COLUMNS, GATE_ORDER, _COLORS, strict=True
        ):
            _draw_weights(axes, [rows[column] for _, rows in groups], color)
            axes.set_title(word)
        labels = [f"{label} ({len(rows):,})" for label, rows in groups]
        panels[0].set_yticks(range(len(groups)), labels)
        panels[0].invert_yaxis()
        panels[1].set_xlabel("gate weight")
        figure.suptitle(f"What the gate of {name} weighs", x=0.01, ha="left", fontsize=11)
        caption(
            figure,
            f"{order}, the best on top; in brackets the number of images.\n"
            "Points are medians, lines go from the first to the third quartile.",
        )
    return figure


def _draw_weights(axes: Axes, weights: list[pd.Series], color: str) -> None:
    for place, values in enumerate(weights):
        low, middle, high = values.quantile([0.25, 0.5, 0.75])
        axes.plot([low, high], [place, place], color=color, linewidth=2.5, alpha=0.45)
        axes.plot(middle, place, "o", color=color, markersize=6)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
