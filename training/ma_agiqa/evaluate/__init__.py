"""Evaluation: how well scores agree with people, and how far that number carries (paper §4).

    python -m ma_agiqa evaluate --checkpoint runs/agiqa_3k --output runs/agiqa_3k-evaluation

A table of predictions is measured as a whole, by generator and by subset (`measurement`). The
predictions come from a checkpoint in this process, from a served model (`served`), or from a file.
Which images are scored, the run's own settings and split say, or the config of another data set
(`selection`); `report` lays out what was found, with the paper's numbers next to ours.
"""

from ma_agiqa.evaluate.measurement import (
    Group,
    Measurement,
    measure,
    measure_generators,
    measure_subsets,
)
from ma_agiqa.evaluate.report import report, write_report
from ma_agiqa.evaluate.result import Result
from ma_agiqa.evaluate.selection import Selection, score_selection, select_own, select_saved
from ma_agiqa.evaluate.served import score_served

__all__ = [
    "Group",
    "Measurement",
    "Result",
    "Selection",
    "measure",
    "measure_generators",
    "measure_subsets",
    "report",
    "score_selection",
    "score_served",
    "select_own",
    "select_saved",
    "write_report",
]
