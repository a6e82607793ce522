"""The table of all methods, with the numbers of the paper's Table 1 beside ours."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ma_agiqa.evaluate.baselines.comparison import Outcome
from ma_agiqa.evaluate.paper_results import COMPARISON, DATASETS
from ma_agiqa.files import write_whole

__all__ = ["to_csv", "to_markdown", "write_tables"]

_METRICS = ("srcc", "plcc", "krcc", "rmse")
_NOTE = """\
All methods are measured on the same images. PLCC and RMSE are taken after a logistic curve with
four parameters was fitted to the MOS. Where a method's own value falls as quality rises (BRISQUE,
NIQE, ILNIQE), its sign is turned first, so that higher is better in every column but RMSE. A paper
column is SRCC / PLCC / KRCC / RMSE of its Table 1. "zero-shot" is used as it is published,
"trained" was trained here on the train part, "given" are predictions of another model.
"""


def to_markdown(outcomes: Sequence[Outcome], dataset: str, part: str) -> str:
    """The table as Markdown, with the methods left out below it.

    Args:
        outcomes: in the order of the rows.
        dataset: name of the data set, for the title.
        part: of the split, for the title.
    """
    measured = [outcome for outcome in outcomes if outcome.metrics is not None]
    count = measured[0].metrics.count if measured and measured[0].metrics else 0
    lines = [f"# Methods on {dataset}, {part} part ({count} images)", "", _NOTE]
    head = ["Method", "Use", "SRCC", "PLCC", "KRCC", "RMSE", "Code and weights"]
    head += [f"Paper, {name}" for name in DATASETS]
    lines += [_row(head), _row(["---", "---", *["---:"] * 4, "---", *["---"] * len(DATASETS)])]
    lines += [_row(_cells(outcome)) for outcome in measured]
    if left_out := [outcome for outcome in outcomes if outcome.metrics is None]:
        lines += ["", "Left out:", ""]
        lines += [f"- **{o.name}** ({o.kind}): {o.reason}" for o in left_out]
    return "\n".join(lines) + "\n"


def to_csv(outcomes: Sequence[Outcome]) -> str:
    """The table as CSV: a row for every method, those left out with their reason."""
    paper = [f"paper_{name}_{metric}" for name in DATASETS for metric in _METRICS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "use", "origin", "count", *_METRICS, "plcc_raw", *paper, "left_out"])
    for outcome in outcomes:
        metrics = outcome.metrics
        ours = [getattr(metrics, name, "") for name in ("count", *_METRICS, "plcc_raw")]
        writer.writerow(
            [outcome.name, outcome.kind, outcome.origin, *ours, *_paper(outcome), outcome.reason]
        )
    return text.getvalue()


def write_tables(outcomes: Sequence[Outcome], dataset: str, part: str, output: str | Path) -> None:
    """Write `baselines.md` and `baselines.csv` into a folder.

    Raises:
        DataError: they cannot be written.
    """
    texts = {
        "baselines.md": to_markdown(outcomes, dataset, part),
        "baselines.csv": to_csv(outcomes),
    }
    for name, text in texts.items():
        write_whole(Path(output, name), text)


def _cells(outcome: Outcome) -> list[str]:
    ours = [f"{getattr(outcome.metrics, name):.4f}" for name in _METRICS]
    rows = [COMPARISON[name].get(outcome.name) for name in DATASETS]
    paper = [
        " / ".join(f"{getattr(row, name):.4f}" for name in _METRICS) if row else "" for row in rows
    ]
    return [outcome.name, outcome.kind, *ours, outcome.origin, *paper]


def _paper(outcome: Outcome) -> list[float | str]:
    rows = [COMPARISON[name].get(outcome.name) for name in DATASETS]
    return [getattr(row, metric, "") for row in rows for metric in _METRICS]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
