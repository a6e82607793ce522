"""Selection of the images to show: the best, the good, or the best of each group."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import click

from ma_agiqa_client.card import Calibration
from ma_agiqa_client.cli.rows import Row, best_first

Grouping = Callable[[str], str | None]
"""Returns the group of a path, or None if it is in no group."""

PARENT = "parent"

_SPARE = 1000  # rows that are kept beyond those that are shown, so that they are sorted rarely


def parse_grouping(text: str) -> Grouping:
    """Read `parent` (images of one folder), or a regular expression to search in the path.

    The groups of the expression, joined by `/`, are the name of the group; if it has no groups, the
    whole match is.

    Raises:
        ValueError: it is not a regular expression.
    """
    if text == PARENT:
        return lambda image: os.path.dirname(image) or "."
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(
            f"{text!r} is not a regular expression ({error}). Expected one, or the word parent."
        ) from error

    def group(image: str) -> str | None:
        match = pattern.search(image)
        if match is None:
            return None
        return "/".join(part for part in match.groups() if part is not None) or match[0]

    return group


def grouping_option_value(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Grouping | None:
    """Read the value of an option, for click."""
    try:
        return None if value is None else parse_grouping(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


class Selection:
    """Decides row by row, and keeps few more rows than it will show.

    Without any rule, every row passes, including failures. With a rule, failures do not pass.
    """

    def __init__(
        self,
        *,
        top: int | None = None,
        min_mos: float | None = None,
        grouping: Grouping | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """Set the rules.

        Args:
            top: how many of the best to show, in total or per group; by default one per group, or
                all if there are no groups.
            min_mos: minimum MOS.
            grouping: how to find the group of a path; images without a group are left out.
            calibration: tells how sure each place is; None if that is not known.
        """
        self._top = 1 if top is None and grouping else top
        self._min_mos = min_mos
        self._grouping = grouping
        self._calibration = calibration
        self._best: dict[str | None, list[Row]] = {}
        self.ungrouped = 0

    @property
    def ranks(self) -> bool:
        """Whether rows are returned at the end, in order of rank, instead of at once."""
        return self._top is not None

    def take(self, row: Row) -> Iterator[Row]:
        """Yield the row if it can be shown at once."""
        if self._top is None and self._min_mos is None:
            yield row
            return
        if row.mos is None or (self._min_mos is not None and row.mos < self._min_mos):
            return
        if self._top is None:
            yield row
            return
        group = self._grouping(row.image) if self._grouping else None
        if group is None and self._grouping:
            self.ungrouped += 1
            return
        best = self._best.setdefault(group, [])
        best.append(replace(row, group=group))
        if len(best) > self._top + 1 + (0 if self._grouping else _SPARE):
            best[:] = best_first(best)[: self._top + 1]

    def rest(self) -> Iterator[Row]:
        """Yield the rows kept for the end: best first, groups in the order they appeared."""
        for best in self._best.values():
            ranked = best_first(best)
            for place, row in enumerate(ranked[: self._top]):
                yield self._with_lead(row, ranked[place + 1] if place + 1 < len(ranked) else None)

    def _with_lead(self, row: Row, following: Row | None) -> Row:
        if self._calibration is None or following is None:
            return row
        return replace(row, lead=self._calibration.lead(row, following))
