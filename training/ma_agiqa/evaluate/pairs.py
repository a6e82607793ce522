"""Two scorers on the same images: is one better, beyond what the choice of images explains?

The intervals of two results may overlap although one is better on nearly every resample. Here both
are measured on the same resamples, and the interval is that of the difference.
"""

from collections.abc import Iterator, Sequence

from ma_agiqa.evaluate.measurement import units_of
from ma_agiqa.evaluate.predictions import same_mos
from ma_agiqa.evaluate.result import Result
from ma_agiqa.metrics.intervals import Interval, bootstrap_difference


def comparable(results: Sequence[Result]) -> Iterator[Result]:
    """The results after the first one that are of the same images with the same ratings."""
    for other in results[1:]:
        first, frame = results[0].frame, other.frame
        if list(frame["image"]) == list(first["image"]) and same_mos(frame, first).all():
            yield other


def paired_differences(first: Result, other: Result) -> dict[str, tuple[float, Interval]]:
    """Each metric of the other result minus that of the first one, and its interval."""
    how = first.overall.intervals
    return bootstrap_difference(
        first.frame["mos"],
        first.frame["score"],
        other.frame["score"],
        how.resamples,
        how.seed,
        units_of(first.frame),
    )
