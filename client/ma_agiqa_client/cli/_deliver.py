"""Distribution of rows to the outputs: scores, maps, report, copies, explanations."""

import os
import sys
from collections.abc import Iterator
from typing import IO, Protocol

from ma_agiqa_client._programs.console import Console, printable
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli._batch import Batch
from ma_agiqa_client.cli._copies import BestFolder
from ma_agiqa_client.cli._explanations import Explanations
from ma_agiqa_client.cli._options import Options
from ma_agiqa_client.cli._report import Report
from ma_agiqa_client.cli._select import Selection
from ma_agiqa_client.cli._tags import Tags
from ma_agiqa_client.cli.maps import MapFolder
from ma_agiqa_client.cli.output import make_writer
from ma_agiqa_client.cli.rows import Row


class _Sink(Protocol):
    """Takes the selected rows, one after the other."""

    def add(self, row: Row) -> None: ...

    def finish(self) -> None: ...


class Delivery:
    """Selects rows and passes them to the outputs."""

    def __init__(
        self,
        options: Options,
        card: ModelCard,
        output: IO[str],
        expected: int,
        console: Console,
        explanations: Explanations | None = None,
    ) -> None:
        """Prepare.

        Args:
            options: the options of the command line.
            card: the model that gives the scores.
            output: where the scores are written.
            expected: number of images.
            console: shows the progress, and images without a map or a group.
            explanations: answers questions about the selected images, at the very end.
        """
        self._options = options
        self._console = console
        self._expected = expected
        self._selection = Selection(
            top=options.top,
            min_mos=options.min_mos,
            grouping=options.group_by,
            calibration=card.calibration,
        )
        ranked = self._selection.ranks
        self._writer = make_writer(
            options.writes,
            output,
            card,
            ranked=ranked,
            grouped=options.group_by is not None,
            prompted=options.prompts is not None,
        )
        self._maps = MapFolder(options.maps) if options.maps else None
        self._best = BestFolder(options.copy_best, ranked=ranked) if options.copy_best else None
        self._tags = Tags(card) if options.tag else None
        self._explanations = explanations
        report = self._make_report(card)
        sinks = (self._writer, self._maps, report, self._tags, self._best, explanations)
        self._sinks: list[_Sink] = [sink for sink in sinks if sink]

    def run(self, batch: Batch) -> None:
        """Pass on every row.

        If the server went away, no images are copied and none are explained.

        Raises:
            ClientError: the images cannot be explained.
            OSError: a result cannot be written.
        """
        with self._console.progress(self._expected, hidden=self._bar_would_clash()) as (bar, task):
            for row in batch.rows():
                bar.advance(task)
                self._pass_on(self._selection.take(row))
            self._pass_on(self._selection.rest())
        for sink in self._sinks:
            if sink not in (self._best, self._explanations) or not batch.counts.unserved:
                sink.finish()
        self._report_missing(batch.counts.unserved)

    def is_complete(self) -> bool:
        """Return whether every map and copy could be written."""
        return not any(
            sink.failures.unwritten for sink in (self._maps, self._tags, self._best) if sink
        )

    def _pass_on(self, rows: Iterator[Row]) -> None:
        for row in rows:
            for sink in self._sinks:
                sink.add(row)

    def _make_report(self, card: ModelCard) -> Report | None:
        path, paths = self._options.report, self._options.paths
        if path is None:
            return None
        names = [os.path.basename(os.path.abspath(name)) for name in paths if name != "-"]
        names += ["a list"] * ("-" in paths)
        title = ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
        top = None if self._options.group_by else self._options.top
        expected = min(self._expected, top or self._expected)
        return Report(path, card, title=printable(title), expected=expected)

    def _bar_would_clash(self) -> bool:
        return self._writer.streams and self._options.output is None and sys.stdout.isatty()

    def _report_missing(self, unserved: int) -> None:
        for sink in (self._maps, self._tags, self._best):
            for image, reason in sink.failures if sink else ():
                self._console.print(f"  {printable(image)}: {reason}")
        if self._selection.ungrouped:
            self._console.print(
                f"{self._selection.ungrouped} images do not match --group-by and were left out."
            )
        if self._best and unserved:
            self._console.print("Nothing was copied: images without a score may be better.")
