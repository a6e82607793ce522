"""Metrics of a table of predictions: of all its images, by generator and by subset."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ma_agiqa.data import Subset
from ma_agiqa.data.splits import prompt_key
from ma_agiqa.errors import DataError
from ma_agiqa.evaluate.tables import METRIC_HEADINGS
from ma_agiqa.metrics.agreement import Metrics, evaluate
from ma_agiqa.metrics.intervals import RESAMPLES, Intervals, bootstrap


@dataclass(frozen=True)
class Measurement:
    """The metrics of a number of images, and their intervals."""

    metrics: Metrics
    intervals: Intervals

    def to_dict(self) -> dict[str, Any]:
        """Plain values: metrics by name, [low, high] by name under "intervals"."""
        found = {name: getattr(self.intervals, name) for name in METRIC_HEADINGS}
        how = {name: getattr(self.intervals, name) for name in ("level", "resamples", "seed")}
        return {
            **self.metrics.to_dict(),
            "intervals": {
                **{name: [ends.low, ends.high] for name, ends in found.items()},
                **how,
            },
        }


@dataclass(frozen=True)
class Group:
    """Some of the images, measured on their own.

    Attributes:
        name: name of the generator or subset.
        count: number of images in it.
        measurement: None if they are too few.
    """

    name: str
    count: int
    measurement: Measurement | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the count alone where the images are too few."""
        return self.measurement.to_dict() if self.measurement else {"count": self.count}


def measure(frame: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> Measurement:
    """Measure every row of a table of predictions.

    Where all prompts are known, the resamples of the intervals draw prompts, with all their images.

    Args:
        frame: as `ma_agiqa.evaluate.predictions` gives it.
        resamples, seed: number of resamples of the intervals, and their seed.

    Raises:
        DataError: fewer than 5 rows.
    """
    metrics = evaluate(frame["mos"], frame["score"])
    prompts = [prompt_key(prompt) for prompt in frame["prompt"]]
    groups = prompts if all(prompts) else None
    return Measurement(metrics, bootstrap(frame["mos"], frame["score"], resamples, seed, groups))


def measure_generators(
    frame: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Group, ...]:
    """Measure the images of each generator, by name; none where no generator is known."""
    known = frame[frame["generator"] != ""]
    members = known.groupby("generator", sort=True)
    return tuple(_group(str(name), rows, resamples, seed) for name, rows in members)


def measure_subsets(
    frame: pd.DataFrame, subsets: Sequence[Subset], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Group, ...]:
    """Measure the images of each subset, in the order given."""
    return tuple(
        _group(subset.name, frame[list(_holds(frame, subset))], resamples, seed)
        for subset in subsets
    )


def _holds(frame: pd.DataFrame, subset: Subset) -> Iterator[bool]:
    for prompt, generator in zip(frame["prompt"], frame["generator"], strict=True):
        yield subset.holds(prompt, generator)


def _group(name: str, rows: pd.DataFrame, resamples: int, seed: int) -> Group:
    try:
        return Group(name, len(rows), measure(rows, resamples, seed))
    except DataError:  # too few for the curve
        return Group(name, len(rows), None)
