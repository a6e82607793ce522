"""Which scored images are shown: the best ones, the good ones, the best of each group."""

import heapq
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ma_agiqa_client.cli._rows import Row

__all__ = ["Grouping", "Selection", "parse_grouping"]

Grouping = Callable[[str], str | None]
"""Gives the group of a path, or None if it is in none."""

PARENT = "parent"


def parse_grouping(text: str) -> Grouping:
    """Read `parent` (images of one folder) or a regular expression searched in the path.

    The groups of the expression, joined by `/`, name the group; without groups, the whole match.

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


@dataclass(frozen=True)
class _Best:
    """The best `size` rows seen so far; of equal ones the first."""

    size: int
    heap: "list[tuple[float, int, Row]]"

    def offer(self, mos: float, order: int, row: Row) -> None:
        entry = (mos, -order, row)
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, entry)
        else:
            heapq.heappushpop(self.heap, entry)

    def rows(self) -> list[Row]:
        return [row for _, _, row in sorted(self.heap, key=lambda entry: (-entry[0], -entry[1]))]


class Selection:
    """Decides row by row, and keeps no more rows than it will show.

    Without any rule every row passes, failed ones too. With a rule failed rows do not pass.
    """

    def __init__(
        self,
        *,
        top: int | None = None,
        min_mos: float | None = None,
        grouping: Grouping | None = None,
    ) -> None:
        """Set the rules.

        Args:
            top: how many of the best to show, of each group if there are groups; without it 1 of
                each group, or all if there are no groups.
            min_mos: least MOS to show.
            grouping: what makes a group; images without a group are left out.
        """
        self._top = 1 if top is None and grouping else top
        self._min_mos = min_mos
        self._grouping = grouping
        self._best: dict[str, _Best] = {}
        self._order = itertools.count()
        self.ungrouped = 0

    @property
    def chooses(self) -> bool:
        """Whether there is any rule."""
        return self._top is not None or self._min_mos is not None

    @property
    def ranks(self) -> bool:
        """Whether rows come at the end, in order of rank, instead of at once."""
        return self._top is not None

    def take(self, row: Row) -> Iterator[Row]:
        """Give the row on, if it can be shown at once."""
        if not self.chooses:
            yield row
            return
        if row.mos is None or (self._min_mos is not None and row.mos < self._min_mos):
            return
        if self._top is None:
            yield row
            return
        group = self._grouping(row.image) if self._grouping else ""
        if group is None:
            self.ungrouped += 1
            return
        best = self._best.setdefault(group, _Best(self._top, []))
        best.offer(
            row.mos, next(self._order), replace(row, group=group if self._grouping else None)
        )

    def rest(self) -> Iterator[Row]:
        """The rows kept for the end: best first, groups in the order they appeared."""
        for best in self._best.values():
            yield from best.rows()
