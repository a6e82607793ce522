"""The measured predictions of one model, and what they are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ma_agiqa.evaluate.measurement import (
    Group,
    Measurement,
    measure,
    measure_fifths,
    measure_generators,
    measure_subsets,
    units_of,
)
from ma_agiqa.evaluate.paper_results import COMPARISON, CROSS, PaperMetrics
from ma_agiqa.evaluate.predictions import same_mos
from ma_agiqa.evaluate.selection import ALL_PARTS, Selection
from ma_agiqa.metrics.intervals import RESAMPLES, Interval, bootstrap_difference


@dataclass(frozen=True)
class Result:
    """The measured predictions of one model.

    Attributes:
        name: name of its row; no two results of a report have the same.
        method: as the paper's tables call it; None where they do not have it.
        trained_on: name of a data set; None if not known.
        selection: the images; None if nothing but their predictions is known.
        frame: the predictions.
        overall: measurement of all images.
        generators, subsets: measurements of some of them.
        notes: sentences that a reader must know.
    """

    name: str
    method: str | None
    trained_on: str | None
    selection: Selection | None
    frame: pd.DataFrame
    overall: Measurement
    generators: tuple[Group, ...]
    subsets: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        frame: pd.DataFrame,
        selection: Selection | None = None,
        method: str | None = None,
        trained_on: str | None = None,
        notes: tuple[str, ...] = (),
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> "Result":
        """Measure a table of predictions as a whole, by generator and by the subsets of its set.

        Raises:
            DataError: fewer than 5 images.
        """
        subsets = selection.config.data.subsets if selection else ()
        overall = measure(frame, resamples, seed)
        generators = measure_generators(frame, resamples, seed)
        groups = generators, measure_subsets(frame, subsets, resamples, seed)
        return cls(name, method, trained_on, selection, frame, overall, *groups, notes)

    @property
    def tested_on(self) -> str | None:
        """Name of the data set of the images, if known."""
        return self.selection.config.data.name if self.selection else None

    @property
    def ratings(self) -> str | None:
        """Column of the ratings in that data set's table, if known."""
        return self.selection.config.data.columns.mos if self.selection else None

    @property
    def part(self) -> str | None:
        """Part of that data set, if known."""
        return self.selection.part if self.selection else None

    @property
    def title(self) -> str:
        """What was trained and tested on what, in words."""
        trained = f"trained on {self.trained_on}, " if self.trained_on else ""
        part = "all images" if self.part == ALL_PARTS else f"the {self.part} part"
        tested = f"tested on {part} of {self.tested_on}" if self.tested_on else "predictions"
        return trained + tested

    @property
    def paper(self) -> tuple[str, PaperMetrics] | None:
        """The paper's number for the same method and data, and where it stands there."""
        if self.part != "test" or self.method is None or self.tested_on is None:
            return None
        tables = {
            "Table 1": COMPARISON.get(self.tested_on, {}),
            "Table 2": CROSS.get((self.trained_on or "", self.tested_on), {}),
        }
        own = self.trained_on in (None, self.tested_on)
        place = "Table 1" if own else "Table 2"
        found = tables[place].get(self.method)
        same = self.selection is None or self.selection.config.split.kind == "paper"
        where = f"{self.method}, paper {place}" + ("" if same else ", another split")
        return (where, found) if found else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        paper = self.paper
        return {
            "name": self.name,
            "trained_on": self.trained_on,
            "tested_on": self.tested_on,
            "part": self.part,
            **self.overall.to_dict(),
            "fifths": [fifth.to_dict() for fifth in measure_fifths(self.frame)],
            "generators": {group.name: group.to_dict() for group in self.generators},
            "subsets": {group.name: group.to_dict() for group in self.subsets},
            "paper": None if paper is None else {"source": paper[0], **vars(paper[1])},
            "notes": list(self.notes),
        }


def paired_differences(results: Sequence[Result]) -> dict[str, dict[str, tuple[float, Interval]]]:
    """Is a result better than the first one, beyond what the choice of images explains?

    The intervals of two results may overlap although one is better on nearly every resample. Here
    both are measured on the same resamples, and the interval is that of the difference.

    Returns:
        For each later result of the same images with the same ratings, by its name: each metric
        minus that of the first result, and its interval.
    """
    first, how = results[0].frame, results[0].overall.intervals
    return {
        other.name: bootstrap_difference(
            first["mos"],
            first["score"],
            other.frame["score"],
            how.resamples,
            how.seed,
            units_of(first),
        )
        for other in results[1:]
        if list(other.frame["image"]) == list(first["image"]) and same_mos(other.frame, first).all()
    }
