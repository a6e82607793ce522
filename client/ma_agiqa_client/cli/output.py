"""Output of scores: a table for people, JSON and CSV for programs.

`jsonl` and `csv` are written row by row; `table` and `json` keep the rows until the end, to sort
them.
"""

import csv
import json
from abc import ABC, abstractmethod
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ma_agiqa_client._programs.console import printable
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli.rows import Row, best_first

FORMATS = ("table", "json", "jsonl", "csv")
_ENDINGS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}

_CSV_COLUMNS = (
    "image",
    "group",
    "mos",
    "normalized",
    "percentile",
    "gate_semantic",
    "gate_coherence",
    "gate_quality",
    "model",
    "error",
)


class Writer(ABC):
    """Takes rows one after the other, and writes them to a text stream."""

    streams = False
    """Whether a row is written as soon as it is added."""

    def __init__(self, file: IO[str], card: ModelCard, *, ranked: bool, grouped: bool) -> None:
        """Prepare.

        Args:
            file: where to write; the caller closes it.
            card: the model that gave the scores.
            ranked: whether the rows are added in order of rank.
            grouped: whether the rows have groups.
        """
        self._file = file
        self._card = card
        self._ranked = ranked
        self._grouped = grouped

    @abstractmethod
    def add(self, row: Row) -> None:
        """Take a row; its patch maps are not kept."""

    def finish(self) -> None:
        """Write the rows that were kept until the end of the run."""
        self._file.flush()


class JsonLinesWriter(Writer):
    """One JSON object per line; ASCII only, so that every file name survives every terminal."""

    streams = True

    def add(self, row: Row) -> None:
        """Write the row."""
        self._file.write(json.dumps(row.to_dict(), allow_nan=False) + "\n")
        self._file.flush()


class CsvWriter(Writer):
    """A header, and a line per image; with a group column if the images are grouped."""

    streams = True

    def __init__(self, file: IO[str], card: ModelCard, *, ranked: bool, grouped: bool) -> None:
        """Write the header."""
        super().__init__(file, card, ranked=ranked, grouped=grouped)
        columns = [name for name in _CSV_COLUMNS if grouped or name != "group"]
        self._csv = csv.DictWriter(file, columns, lineterminator="\n")
        self._csv.writeheader()

    def add(self, row: Row) -> None:
        """Write the row."""
        cells = row.to_dict()
        gate = cells.pop("gate") or {}
        self._csv.writerow(cells | {f"gate_{name}": share for name, share in gate.items()})
        self._file.flush()


class _KeepingWriter(Writer):
    def __init__(self, file: IO[str], card: ModelCard, *, ranked: bool, grouped: bool) -> None:
        super().__init__(file, card, ranked=ranked, grouped=grouped)
        self._kept: list[Row] = []

    def add(self, row: Row) -> None:
        """Keep the row, without its maps."""
        self._kept.append(row.without_patches())

    def _sorted(self) -> list[Row]:
        return self._kept if self._ranked else best_first(self._kept)


class JsonWriter(_KeepingWriter):
    """A JSON list of objects, best first; ASCII only."""

    def finish(self) -> None:
        """Write the list."""
        rows = [row.to_dict() for row in self._sorted()]
        self._file.write(json.dumps(rows, indent=2, allow_nan=False) + "\n")
        super().finish()


class TableWriter(_KeepingWriter):
    """The rows that have a score, the model that gave them, and what the numbers mean."""

    def add(self, row: Row) -> None:
        """Keep the row if it has a score."""
        if row.error is None:
            super().add(row)

    def finish(self) -> None:
        """Print the table, if it has rows."""
        rows = self._sorted()
        if rows:
            console = Console(file=self._file)
            if not console.is_terminal:  # one line per image, for grep and the like
                longest = max(len(row.image) + len(row.group or "") for row in rows)
                console.width = max(console.width, 80 + longest)
            console.print(self._table(rows))
            console.print()
            for line in (model_line(self._card), meaning(self._card)):
                console.print(Text(printable(line)), soft_wrap=True)
        super().finish()

    def _table(self, rows: list[Row]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("group", "image") if self._grouped else ("image",):
            table.add_column(heading, overflow="fold")
        for heading in ("MOS", "0-1", "percentile", "semantic", "coherence", "quality"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            names = (row.group or "", row.image) if self._grouped else (row.image,)
            table.add_row(*(Text(printable(name)) for name in names), *_cells(row))
        return table


_WRITERS: dict[str, type[Writer]] = {
    "table": TableWriter,
    "json": JsonWriter,
    "jsonl": JsonLinesWriter,
    "csv": CsvWriter,
}


def format_of(path: str | None) -> str:
    """Return the format for the extension of an output file; the table by default."""
    endings = (name for ending, name in _ENDINGS.items() if path and path.lower().endswith(ending))
    return next(endings, "table")


def make_writer(
    name: str, file: IO[str], card: ModelCard, *, ranked: bool, grouped: bool
) -> Writer:
    """Make the writer of one of `FORMATS`; for the other arguments, see `Writer`."""
    return _WRITERS[name](file, card, ranked=ranked, grouped=grouped)


def model_line(card: ModelCard) -> str:
    """Return a line with the name of the model that gave the scores, and its note."""
    line = f"Model: {card.name} (preset {card.preset}, data set {card.dataset})."
    return f"{line} {card.note}" if card.note else line


def meaning(card: ModelCard) -> str:
    """Return a sentence that explains the numbers."""
    return (
        f"MOS: predicted mean opinion score of people, {card.mos_min:g} to {card.mos_max:g}, "
        "higher is better; 0-1: the same, rescaled; percentile: training images rated lower; "
        "semantic, coherence, quality: how much each feature counted."
    )


def _cells(row: Row) -> list[str]:
    gate = row.gate
    if gate is None:
        return []
    shares = (f"{share:.0%}" for share in (gate.semantic, gate.coherence, gate.quality))
    return [f"{row.mos:.3f}", f"{row.normalized:.3f}", f"{row.percentile:.0f} %", *shares]
