"""Scores of a model against the MOS, with the curve that PLCC and RMSE are measured after."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ma_agiqa.evaluate.figures.style import CURVE, MOS_LABEL, OURS, WIDTH_INCHES, styled
from ma_agiqa.evaluate.tables import number
from ma_agiqa.metrics.agreement import evaluate, fit_logistic, logistic

_FEW, _FAINTEST = 300, 0.15  # points that may be opaque, and the opacity of very many
_CURVE_POINTS = 200


def draw_scatter(frame: pd.DataFrame, name: str) -> Figure:
    """Draw one point per image, the fitted logistic and the metrics.

    Args:
        frame: predictions, see `ma_agiqa.evaluate.predictions`.
        name: name of the model.

    Raises:
        DataError: fewer than 5 images.
    """
    x, y = frame["score"].to_numpy(), frame["mos"].to_numpy()
    found = evaluate(y, x)
    with styled():
        figure = Figure((WIDTH_INCHES, 5.4), layout="constrained")
        axes = figure.subplots()
        opacity = max(_FAINTEST, min(0.8, 0.8 * (_FEW / len(x)) ** 0.5))
        axes.scatter(x, y, s=16, color=OURS, alpha=opacity, linewidths=0)
        parameters = fit_logistic(y, x) if found.logistic_fitted else None
        if parameters is not None:
            line = np.linspace(x.min(), x.max(), _CURVE_POINTS)
            axes.plot(line, logistic(line, *parameters), color=CURVE, label="fitted logistic")
            axes.legend(loc="lower right" if found.plcc_raw >= 0 else "lower left")
        axes.set(xlabel=f"score predicted by {name}", ylabel=MOS_LABEL)
        metrics = ("srcc", "plcc", "krcc", "rmse")
        lines = [f"{metric.upper()} {number(getattr(found, metric))}" for metric in metrics]
        falls = found.plcc_raw < 0
        place: dict[str, Any] = {"x": 0.98, "ha": "right"} if falls else {"x": 0.02, "ha": "left"}
        axes.text(y=0.98, s="\n".join(lines), va="top", transform=axes.transAxes, **place)
        axes.set_title(f"{name} on {found.count:,} images")
    return figure
