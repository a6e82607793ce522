"""The columns of the scores, next to those that are copied from the input."""

from collections.abc import Sequence

NUMBERS = ("mos", "normalized", "percentile")
GATE = ("semantic", "coherence", "quality")
RESULTS = (*NUMBERS, *(f"gate_{name}" for name in GATE), "model", "error", "error_kind")


def name_conflict(columns: Sequence[str]) -> str | None:
    """Return what is wrong if a column of the input has the name of a column of the scores."""
    taken = [name for name in columns if name in RESULTS]
    if not taken:
        return None
    return (
        f"The column {taken[0]} of the input has the name of a column of the scores "
        f"({', '.join(RESULTS)}), which would replace it. Rename it in the input, or leave it out."
    )
