"""Selection of the images to show: the best, the good, or the best of each group."""

import heapq
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ma_agiqa_client.cli.rows import Row

Grouping = Callable[[str], str | None]
"""Returns the group of a path, or None if it is in no group."""

PARENT = "parent"


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


@dataclass(frozen=True)
class _Best:
    """The best `size` rows so far; of equal rows, the first ones."""

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

    Without any rule, every row passes, including failures. With a rule, failures do not pass.
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
            top: how many of the best to show, in total or per group; by default one per group, or
                all if there are no groups.
            min_mos: minimum MOS.
            grouping: how to find the group of a path; images without a group are left out.
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
        """Whether rows are returned at the end, in order of rank, instead of at once."""
        return self._top is not None

    def take(self, row: Row) -> Iterator[Row]:
        """Yield the row if it can be shown at once."""
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
        """Yield the rows kept for the end: best first, groups in the order they appeared."""
        for best in self._best.values():
            yield from best.rows()
