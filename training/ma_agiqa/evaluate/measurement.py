"""Metrics of a table of predictions: of all its images, by generator and by subset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from ma_agiqa.data import Subset
from ma_agiqa.data.splits import prompt_key
from ma_agiqa.errors import DataError
from ma_agiqa.evaluate.predictions import INTERVAL_COLUMNS, has_intervals
from ma_agiqa.evaluate.tables import RAW_HEADINGS
from ma_agiqa.metrics import agreement
from ma_agiqa.metrics.agreement import MIN_SAMPLES, Metrics, evaluate
from ma_agiqa.metrics.intervals import RESAMPLES, Intervals, bootstrap


@dataclass(frozen=True)
class Coverage:
    """How the intervals of scores do.

    Attributes:
        share: share of the MOS that are in their intervals, 0-1.
        width: mean width of the intervals, in MOS.
    """

    share: float
    width: float


@dataclass(frozen=True)
class Measurement:
    """The metrics of a number of images and their intervals, and how those of the scores do."""

    metrics: Metrics
    intervals: Intervals
    coverage: Coverage | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: metrics by name, (low, high) by name under "intervals"."""
        return {
            **self.metrics.to_dict(),
            "intervals": asdict(self.intervals),
            **({"coverage": vars(self.coverage)} if self.coverage else {}),
        }


@dataclass(frozen=True)
class Fifth:
    """A fifth of the images by MOS. Correlations within it say little and are left out.

    Attributes:
        mos: its lowest and highest MOS, as text.
        count: number of images.
        errors: rmse_raw, mae_raw and bias, by name.
        coverage: of the intervals; None without them.
    """

    mos: str
    count: int
    errors: Mapping[str, float]
    coverage: Coverage | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        coverage = {"coverage": vars(self.coverage)} if self.coverage else {}
        return {"mos": self.mos, "count": self.count, **self.errors, **coverage}


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

    Where prompts or groups are known, the resamples of the intervals draw them, with all their
    images.

    Args:
        frame: as `ma_agiqa.evaluate.predictions` gives it.
        resamples, seed: number of resamples of the intervals, and their seed.

    Raises:
        DataError: fewer than 5 rows.
    """
    metrics = evaluate(frame["mos"], frame["score"])
    groups = units_of(frame)
    intervals = bootstrap(frame["mos"], frame["score"], resamples, seed, groups)
    return Measurement(metrics, intervals, _coverage(frame))


def _coverage(frame: pd.DataFrame) -> Coverage | None:
    if not has_intervals(frame):
        return None
    low, high = (frame[name] for name in INTERVAL_COLUMNS)
    inside = frame["mos"].between(low, high)
    return Coverage(float(inside.mean()), float((high - low).mean()))


def units_of(frame: pd.DataFrame) -> list[str]:
    """What resamples draw as one: the prompt of each row, else its group, else the image."""
    rows = frame[["prompt", "group", "image"]].itertuples(index=False)
    return [prompt_key(prompt) or group or image for prompt, group, image in rows]


def measure_fifths(frame: pd.DataFrame) -> tuple[Fifth, ...]:
    """Measure the fifths of the images by MOS, the lowest first; none of fewer than 25 images."""
    if len(frame) < 5 * MIN_SAMPLES:
        return ()
    found = []
    for mos, rows in fifths(frame):
        metrics = agreement.measure(rows["mos"].to_numpy(), rows["score"].to_numpy())
        errors = {name: getattr(metrics, name) for name in RAW_HEADINGS}
        found.append(Fifth(mos, len(rows), errors, _coverage(rows)))
    return tuple(found)


def fifths(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Lowest and highest MOS, as text, and rows of each fifth of the images by MOS, upwards."""
    place = frame["mos"].rank(method="first").sub(1).mul(5).floordiv(len(frame))
    for _, rows in frame.groupby(place):
        yield f"{rows['mos'].min():.2f} to {rows['mos'].max():.2f}", rows


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
