"""How far two models are from the MOS where one of them is furthest (paper Fig. 6)."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ma_agiqa.evaluate.figures.style import BASELINE, OURS, WIDTH_INCHES, caption, errors, styled

WORST = 300
"""Images of the paper's figure."""

BIN_WIDTH = 0.1
"""Of the histogram on the paper's scale of 0 to 5, in units of MOS, as in the paper."""

_FEWEST_BINS, _MOST_BINS = 4, 50  # errors on the scale of 0 to 5 are at most 5


def worst_images(baseline: pd.DataFrame, count: int = WORST) -> pd.Index:
    """Rows of the images on which a model is furthest from the MOS, the furthest first.

    Args:
        baseline: its predictions.
        count: number of images; all if there are fewer.
    """
    return errors(baseline).sort_values(ascending=False, kind="stable").index[:count]


def draw_differences(
    frame: pd.DataFrame,
    baseline: pd.DataFrame,
    name: str,
    baseline_name: str,
    count: int = WORST,
) -> Figure:
    """Draw the density of |score - MOS| of both models on the baseline's worst images.

    The images are chosen by the errors of the baseline: a second model is likely to look better on
    them even if it is as good. The figure shows where the baseline fails, not which model is
    better.

    Args:
        frame, baseline: predictions of the same images in the same order.
        name, baseline_name: names of the models.
        count: number of images to show.
    """
    worst = worst_images(baseline, count)
    shown = {
        which: errors(table.loc[worst]).to_numpy()
        for which, table in ((baseline_name, baseline), (name, frame))
    }
    last = max(values.max() for values in shown.values())
    width = _bin_width(last)
    edges = np.arange(int(last / width) + 2) * width
    with styled():
        figure = Figure((WIDTH_INCHES, 4.2), layout="constrained")
        axes = figure.subplots()
        for (which, values), color in zip(shown.items(), (BASELINE, OURS), strict=True):
            density, _ = np.histogram(values, edges, density=True)
            label = f"{which}: mean {values.mean():.2f}"
            axes.stairs(density, edges, fill=True, color=color, alpha=0.3)
            axes.stairs(density, edges, color=color, linewidth=1.8, label=label)
        axes.set(xlabel="|score - MOS|, in units of MOS", ylabel="density")
        axes.set_xlim(0, edges[-1])
        axes.legend()
        axes.set_title(f"Where {baseline_name} is furthest from the MOS: {len(worst):,} images")
        caption(
            figure,
            f"The images are the {len(worst):,} of {len(frame):,} with the largest error of "
            f"{baseline_name}; bins of {width:g}.",
        )
    return figure


def _bin_width(last: float) -> float:
    """BIN_WIDTH, or for errors up to `last` that it does not suit, another round number."""
    if last == 0:
        return BIN_WIDTH
    if _FEWEST_BINS * BIN_WIDTH <= last <= _MOST_BINS * BIN_WIDTH:
        return BIN_WIDTH
    power = 10.0 ** math.floor(math.log10(last / _MOST_BINS))
    return next(step * power for step in (1, 2, 5, 10) if step * power * _MOST_BINS >= last)
