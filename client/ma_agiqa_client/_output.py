"""How the command line shows scores: a table for people, JSON and CSV for programs."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.score import Score

__all__ = ["Row", "best_first", "printable", "to_json", "to_table", "write_csv"]

_CSV_COLUMNS = (
    "image",
    "mos",
    "normalized",
    "percentile",
    "gate_semantic",
    "gate_coherence",
    "gate_quality",
    "model",
    "error",
)


@dataclass(frozen=True)
class Row:
    """One image, as named by the user, and its score."""

    image: str
    score: Score

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON; `gate` is an object or null, `error` a sentence or null."""
        gate = self.score.gate
        return {
            "image": self.image,
            "mos": self.score.mos,
            "normalized": self.score.normalized,
            "percentile": self.score.percentile,
            "gate": gate
            and {"semantic": gate.semantic, "coherence": gate.coherence, "quality": gate.quality},
            "model": self.score.model,
            "error": str(self.score.error) if self.score.error else None,
        }


def best_first(rows: Iterable[Row]) -> list[Row]:
    """Sort by falling MOS; images without a score come last, in their old order."""
    return sorted(rows, key=lambda row: (row.score.mos is None, -(row.score.mos or 0.0)))


def printable(text: str) -> str:
    """Replace what a terminal would obey or could not show, such as escape sequences in names."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def to_json(rows: Sequence[Row]) -> str:
    """A JSON list of objects; ASCII only, so that any file name survives any terminal."""
    return json.dumps([row.to_dict() for row in rows], indent=2, allow_nan=False)


def write_csv(path: str, rows: Sequence[Row]) -> None:
    """Write a header and a line per image, UTF-8; bytes of odd file names are kept.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, _CSV_COLUMNS)
        writer.writeheader()
        for row in rows:
            cells = row.to_dict()
            gate = cells.pop("gate") or {}
            writer.writerow(cells | {f"gate_{name}": share for name, share in gate.items()})


def to_table(rows: Sequence[Row], card: ModelCard, console: Console) -> None:
    """Print the rows that have a score, the model that gave them, and what the numbers mean."""
    scored = [row for row in rows if row.score.gate]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    for heading in ("MOS", "0-1", "percentile", "semantic", "coherence", "quality"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in scored:
        table.add_row(Text(printable(row.image)), *_cells(row.score))
    if not console.is_terminal:  # one line per image, for grep and the like
        console.width = max(console.width, 80 + max(len(row.image) for row in scored))
    console.print(table)
    console.print()
    for line in (_model_line(card), _meaning(card)):
        console.print(Text(printable(line)), soft_wrap=True)


def _cells(score: Score) -> list[str]:
    gate = score.gate
    if gate is None:
        return []
    shares = (f"{share:.0%}" for share in (gate.semantic, gate.coherence, gate.quality))
    return [f"{score.mos:.3f}", f"{score.normalized:.3f}", f"{score.percentile:.0f} %", *shares]


def _model_line(card: ModelCard) -> str:
    line = f"Model: {card.name} (preset {card.preset}, data set {card.dataset})."
    return f"{line} {card.note}" if card.note else line


def _meaning(card: ModelCard) -> str:
    return (
        f"MOS: predicted mean opinion score of people, {card.mos_min:g} to {card.mos_max:g}, "
        "higher is better; 0-1: the same, rescaled; percentile: training images rated lower; "
        "semantic, coherence, quality: how much each feature counted."
    )
