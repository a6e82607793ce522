"""Output of scores: a table for people, JSON and CSV for programs.

`jsonl` and `csv` are written row by row; `table` and `json` keep the rows until the end, to sort
them.
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.table import Table
from rich.text import Text

from ma_agiqa_client._programs.console import RichConsole, printable
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli.rows import Row, best_first
from ma_agiqa_client.comparison import DISTINCT

_ENDINGS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_NARROW = 60  # columns of a terminal that has no room for all numbers
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are wide = + - @
"""How a cell begins that spreadsheets would evaluate."""


class Writer:
    """Takes rows one after the other, and writes them to a text stream at the end."""

    streams = False
    """Whether a row is written as soon as it is added."""

    def __init__(
        self,
        file: IO[str],
        card: ModelCard,
        *,
        ranked: bool,
        grouped: bool,
        prompted: bool = False,
    ) -> None:
        """Prepare.

        Args:
            file: where to write; the caller closes it.
            card: the model that gave the scores.
            ranked: whether the rows are added in order of rank.
            grouped: whether the rows have groups.
            prompted: whether images were compared with prompts.
        """
        self._file = file
        self._card = card
        self._ranked = ranked
        self._grouped = grouped
        self._prompted = prompted
        self._kept: list[Row] = []

    def add(self, row: Row) -> None:
        """Take a row; its map is not kept."""
        self._kept.append(row.without_map())

    def finish(self) -> None:
        """Write what was kept until the end of the run."""
        self._write(self._kept if self._ranked else best_first(self._kept))
        self._file.flush()

    def _write(self, rows: list[Row]) -> None:
        """Write the rows, which are sorted."""


class JsonLinesWriter(Writer):
    """One JSON object per line; ASCII only, so that every file name survives every terminal."""

    streams = True

    def add(self, row: Row) -> None:
        """Write the row."""
        self._file.write(json.dumps(row.to_dict(), allow_nan=False) + "\n")
        self._file.flush()


class CsvWriter(Writer):
    """A header, and a line per image; with a group column if the images are grouped.

    No cell is a formula to a spreadsheet: `=a.png` becomes `./=a.png`, which is the same file, and
    other texts get an apostrophe in front.
    """

    streams = True

    def __init__(self, file: IO[str], card: ModelCard, **rows: bool) -> None:
        """Write the header."""
        super().__init__(file, card, **rows)
        columns = ["image", *(["group"] if self._grouped else [])]
        columns += ["mos", "normalized", "percentile"]
        columns += ["interval_low", "interval_high", "deviation", "familiarity"]
        columns += ["lead"] if self._ranked and card.calibration else []
        columns += ["alignment", "prompt"] if self._prompted else []
        columns += ["gate_semantic", "gate_coherence", "gate_quality", "model", "error"]
        self._columns = columns
        self._write_line(dict(zip(columns, columns, strict=True)))

    def add(self, row: Row) -> None:
        """Write the row."""
        cells = row.to_dict()
        gate = cells.pop("gate") or {}
        if row.interval:
            cells |= {"interval_low": row.interval.low, "interval_high": row.interval.high}
        cells |= {f"gate_{name}": share for name, share in gate.items()}
        if row.image.startswith(_FORMULA):
            cells["image"] = f"./{row.image}"
        for name in ("group", "prompt", "model", "error"):
            if (cells.get(name) or "").startswith(_FORMULA):
                cells[name] = f"'{cells[name]}"
        self._write_line(cells)

    def _write_line(self, cells: dict[str, Any]) -> None:
        line = io.StringIO()
        csv.writer(line).writerow(cells.get(name) for name in self._columns)
        text = line.getvalue().removesuffix("\r\n")  # this ending has `csv` quote both characters
        self._file.write((printable(text) if self._file.isatty() else text) + "\n")
        self._file.flush()


class JsonWriter(Writer):
    """A JSON list of objects, best first; ASCII only."""

    def _write(self, rows: list[Row]) -> None:
        records = [row.to_dict() for row in rows]
        self._file.write(json.dumps(records, indent=2, allow_nan=False) + "\n")


class TableWriter(Writer):
    """The rows that have a score, the model that gave them, and what the numbers mean."""

    def add(self, row: Row) -> None:
        """Keep the row if it has a score."""
        if row.error is None:
            super().add(row)

    def _write(self, rows: list[Row]) -> None:
        if not rows:
            return
        console = RichConsole(file=self._file)
        if not console.is_terminal:  # one line per image, for grep and the like
            longest = max(len(row.image) + len(row.group or "") for row in rows)
            console.width = max(console.width, 80 + longest)
        console.print(self._table(rows, 1 if console.width < _NARROW else None))
        console.print()
        lines = [model_line(self._card), meaning(self._card)]
        lines += [alignment_meaning(self._card)] if self._prompted else []
        for line in (*lines, *self._remarks(rows)):
            console.print(Text(printable(line)), soft_wrap=True)

    def _table(self, rows: list[Row], numbers: int | None) -> Table:
        """Make a table with the first `numbers` numbers of each row, or with all."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("group", "image") if self._grouped else ("image",):
            table.add_column(heading, overflow="fold")
        known = self._card.calibration
        interval = [f"{known.level:.0%} interval"] if known else []
        headings = ["MOS", *interval, "0-1", "percentile", "semantic", "coherence", "quality"]
        headings += ["alignment"] if self._prompted else []
        for heading in headings[:numbers]:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            names = [row.group or "", row.image] if self._grouped else [row.image]
            cells = _cells(row, self._card)
            if self._prompted:
                cells.append("-" if row.alignment is None else f"{row.alignment:.3f}")
            table.add_row(*(Text(printable(name)) for name in names), *cells[:numbers])
        return table

    def _remarks(self, rows: list[Row]) -> list[str]:
        """Say what the marks mean that are in the table."""
        remarks = []
        if any(is_extrapolation(row, self._card) for row in rows):
            remarks.append(EXTRAPOLATION)
        if any(is_tied(row) for row in rows):
            remarks.append(TIE)
        return remarks


_WRITERS: dict[str, type[Writer]] = {
    "table": TableWriter,
    "json": JsonWriter,
    "jsonl": JsonLinesWriter,
    "csv": CsvWriter,
}
FORMATS = tuple(_WRITERS)


def format_of(path: str | None) -> str:
    """Return the format for the extension of an output file; the table by default."""
    endings = (name for ending, name in _ENDINGS.items() if path and path.lower().endswith(ending))
    return next(endings, "table")


def make_writer(name: str, file: IO[str], card: ModelCard, **rows: bool) -> Writer:
    """Make the writer of one of `FORMATS`; for the other arguments, see `Writer`."""
    return _WRITERS[name](file, card, **rows)


@contextmanager
def replacement(path: str) -> Iterator[str]:
    """Yield the path of a draft that takes the place of a file at the end, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(prefix=".ma-agiqa-", dir=folder) as scratch:
        draft = os.path.join(scratch, "draft")
        yield draft
        os.replace(draft, path)


def model_line(card: ModelCard) -> str:
    """Return a line with the name of the model that gave the scores, and its note."""
    line = f"Model: {card.name} (preset {card.preset}, data set {card.dataset})."
    return f"{line} {card.note}" if card.note else line


def meaning(card: ModelCard) -> str:
    """Return a sentence that explains the numbers."""
    return (
        f"MOS: predicted mean opinion score of people, {card.mos_min:g} to {card.mos_max:g}, "
        "higher is better; 0-1: the same, rescaled; percentile: training images rated lower; "
        "semantic, coherence, quality: how much each feature counted." + _interval_meaning(card)
    )


def alignment_meaning(card: ModelCard) -> str:
    """Return a sentence that explains the alignment."""
    asked = card.alignment
    if asked is None:
        return ""
    over = f", against {asked.against!r}" if asked.against else ""
    return (
        f"Alignment: probability that the served language model answers {asked.answer!r}{over} to: "
        f"{asked.question} Not validated against people; MOS does not depend on it."
    )


def _interval_meaning(card: ModelCard) -> str:
    if card.calibration is None:
        return " The model was not calibrated: its scores have no intervals and no familiarity."
    return f" Interval: holds people's MOS with a probability of {card.calibration.level:.0%}."


EXTRAPOLATION = "?: unlike the images that the model learned from; its score is an extrapolation."
TIE = (
    f"=: not distinguishable from the next best; people would rate it higher with a probability "
    f"below {DISTINCT:.0%}."
)


def is_extrapolation(row: Row, card: ModelCard) -> bool:
    """Return whether an image is unlike those of the training."""
    return card.calibration is not None and not card.calibration.is_familiar(row)


def is_tied(row: Row) -> bool:
    """Return whether an image is not distinguishable from the next best."""
    return row.lead is not None and row.lead < DISTINCT


def _cells(row: Row, card: ModelCard) -> list[str]:
    if row.gate is None:
        return []
    shares = (f"{share:.0%}" for share in vars(row.gate).values())
    marks = "?" * is_extrapolation(row, card) + "=" * is_tied(row)
    mos = f"{marks} {row.mos:.3f}".strip()
    interval = ["-" if row.interval is None else "{:.2f} to {:.2f}".format(*row.interval)]
    interval = interval if card.calibration else []
    return [mos, *interval, f"{row.normalized:.3f}", f"{row.percentile:.0f} %", *shares]
