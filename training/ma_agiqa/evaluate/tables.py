"""Tables of results in Markdown, for a terminal, a report or a README.

    | scorer | images | SRCC ↑ | ...
    | ours | 597 | 0.8939 [0.8712, 0.9105] | ...

A table is a list of rows, each a mapping from heading to text; a number becomes text by one of the
functions here, so that every table of the package shows it alike.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ma_agiqa.metrics.intervals import Interval

NOTHING = "-"
"""What stands where there is no number."""

METRIC_HEADINGS: Mapping[str, str] = {
    "srcc": "SRCC ↑",
    "plcc": "PLCC ↑",
    "krcc": "KRCC ↑",
    "rmse": "RMSE ↓",
    "plcc_raw": "PLCC raw ↑",
}
"""Headings of the metrics by their names; the arrow says where better is."""

RAW_HEADINGS: Mapping[str, str] = {
    "rmse_raw": "RMSE raw ↓",
    "mae_raw": "MAE raw ↓",
    "bias": "bias",
}
"""Headings of the errors of the scores as they are, without a fit, by their names."""


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Lay out rows as a Markdown table; no rows give no text.

    Args:
        rows: text by heading. The first column is aligned left, the others right; a heading that
            a row lacks is shown as NOTHING.
    """
    if not rows:
        return ""
    frame = pd.DataFrame(rows).fillna(NOTHING).map(lambda text: str(text).replace("|", "\\|"))
    align = ["left"] + ["right"] * (frame.shape[1] - 1)
    return frame.to_markdown(
        index=False, disable_numparse=True, colalign=align, preserve_whitespace=False
    )


def number(value: float | None, digits: int = 4) -> str:
    """A number with fixed decimals; NOTHING for None and NaN."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation (of a sample: divided by N - 1) of two values or more."""
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    return NOTHING if math.isnan(mean) else f"{mean:.4f} ± {deviation:.4f}"


def metric_cells(metrics: Any, intervals: Any = None) -> dict[str, str]:
    """The metrics of one row, by their headings.

    Args:
        metrics: with attributes of the names in METRIC_HEADINGS, such as `metrics.Metrics` or
            `paper_results.PaperMetrics`; one that is missing is shown as NOTHING.
        intervals: `intervals.Intervals`, whose ends then follow each number.
    """
    cells = {}
    for name, heading in METRIC_HEADINGS.items():
        cells[heading] = number(getattr(metrics, name, None))
        if intervals is not None and cells[heading] != NOTHING:
            low, high = (number(end, 3) for end in getattr(intervals, name))
            cells[heading] += f" [{low}, {high}]"
    return cells


def coverage_cells(coverage: Any) -> dict[str, str]:
    """Coverage and width of intervals, by their headings; none where there are no intervals."""
    if coverage is None:
        return {}
    return {"coverage": f"{coverage.share:.1%}", "width": number(coverage.width, 3)}


def difference_text(difference: float, interval: Interval) -> str:
    """A signed difference and its interval."""
    if math.isnan(difference):
        return NOTHING
    return f"{difference:+.4f} [{interval.low:+.3f}, {interval.high:+.3f}]"
