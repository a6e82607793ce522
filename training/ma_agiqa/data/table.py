"""Reading a table of rated images.

A table is a CSV file with one row per image; its images are in a folder next to it. Rows are
numbered as a spreadsheet shows them: the header is row 1.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ma_agiqa.errors import ConfigError, DataError

FIRST_ROW = 2
"""Row of the first values; the header is row 1."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table.

    Attributes:
        image: file name, relative to the image folder.
        mos: mean opinion score.
        prompt: text that the image was made from; optional as long as it has its default name.
        generator: model that made the image; optional as long as it has its default name.
        group: what must stay together in a split; None if every image stands alone.
    """

    image: str = "image"
    mos: str = "mos"
    prompt: str = "prompt"
    generator: str = "model"
    group: str | None = None

    @property
    def required(self) -> list[str]:
        """Columns that a table must have."""
        chosen = [
            name for name in (self.prompt, self.generator) if name not in (_PROMPT, _GENERATOR)
        ]
        return [self.image, self.mos, *chosen] + ([self.group] if self.group else [])


_PROMPT, _GENERATOR = Columns.prompt, Columns.generator


@dataclass(frozen=True)
class RatedImage:
    """One row of a table.

    Attributes:
        name: file name as the table gives it; unique.
        path: where the file is.
        mos: mean opinion score.
        group: images of one group never go to different parts.
        row: row in the table, as a spreadsheet shows it; for messages only.
        prompt: text that the image was made from, if known.
        generator: model that made the image, if known.
    """

    name: str
    path: Path
    mos: float
    group: str
    row: int = 0
    prompt: str | None = None
    generator: str | None = None


def read_table(
    csv: str | Path,
    image_folder: str | Path | None = None,
    columns: Columns | None = None,
    mos_range: tuple[float, float] = (0.0, 5.0),
    generator_pattern: str | None = None,
) -> tuple[RatedImage, ...]:
    """Read a CSV file and find its images.

    Args:
        csv: the table.
        image_folder: by default `images` next to the table.
        columns: names of the columns; others are ignored.
        mos_range: lowest and highest possible score.
        generator_pattern: regular expression whose first group, found in the image's name, is its
            generator.

    Raises:
        ConfigError: the pattern is no regular expression, or has no group.
        DataError: the table cannot be read or is empty, a column or an image file is missing, a
            score is no number or outside the range, or an image is listed twice. The message
            names the file and every such row, up to ten.
    """
    csv, columns = Path(csv), columns or Columns()
    folder = Path(image_folder) if image_folder is not None else csv.parent / "images"
    table = read_csv(csv, columns.required, "Name yours under data.columns in the config.")
    names = table[columns.image].str.strip()
    problems = [*_bad_scores(table[columns.mos], mos_range), *_bad_names(names, folder)]
    if problems:
        raise DataError(f"{csv}: {listed(f'row {row}: {text}' for row, text in sorted(problems))}")
    generators = _generators(table, names, columns, generator_pattern)
    prompts = _optional(table, columns.prompt)
    return tuple(
        RatedImage(name, folder / name, float(score), group, row, prompt, generator)
        for row, (name, score, group, prompt, generator) in _numbered(
            zip(
                names,
                table[columns.mos],
                table[columns.group or columns.image].str.strip(),
                prompts,
                generators,
                strict=True,
            )
        )
    )


def read_csv(path: Path, required: Sequence[str], hint: str) -> pd.DataFrame:
    """Read a CSV file (UTF-8) as text.

    Args:
        path: the file.
        required: columns that it must have.
        hint: sentence for a message when a column is missing.

    Returns:
        A frame of str with the index 0..N-1; what a short row lacks is "".

    Raises:
        DataError: the file cannot be read, is not a CSV table, has no rows, lacks a column, or a
            row has more values than the header.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV table: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus values for an index
        raise DataError(
            f"{path}, row {FIRST_ROW}: more values than the {len(table.columns)} columns of the "
            "header. Put values with commas in quotation marks."
        )
    if missing := [name for name in required if name not in table]:
        raise DataError(f"{path} has no column {missing}; its columns are {list(table)}. {hint}")
    if table.empty:
        raise DataError(f"{path} has a header but no rows.")
    return table.fillna("")


def listed(sentences: Iterable[str], shown: int = 10) -> str:
    """Join the sentences of an error: one stays on its line, of many the first ones are shown."""
    found = list(sentences)
    if len(found) == 1:
        return found[0]
    more = [f"... {len(found) - shown:,} more"] if len(found) > shown else []
    return f"{len(found):,} problems\n  " + "\n  ".join([*found[:shown], *more])


def _numbered(values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate(values, start=FIRST_ROW)


def _bad_scores(scores: pd.Series, mos_range: tuple[float, float]) -> Iterator[tuple[int, str]]:
    low, high = mos_range
    for row, text in _numbered(scores):
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not low <= score <= high:
            yield row, f"the score is {text!r}; expected a number in {low}..{high}."


def _bad_names(names: pd.Series, folder: Path) -> Iterator[tuple[int, str]]:
    counts = Counter(names)
    for row, name in _numbered(names):
        if not name:
            yield row, "the image name is empty."
        elif counts[name] > 1:
            yield row, f"{name} is listed more than once."
        elif not (folder / name).is_file():
            yield row, f"there is no file {name} in {folder}."


def _optional(table: pd.DataFrame, column: str) -> list[str | None]:
    if column not in table.columns:
        return [None] * len(table)
    return [text.strip() or None for text in table[column]]


def _generators(
    table: pd.DataFrame, names: pd.Series, columns: Columns, pattern: str | None
) -> list[str | None]:
    if pattern is None:
        return _optional(table, columns.generator)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"data.generator_pattern {pattern!r} is no regular expression: {error}."
        ) from error
    if not compiled.groups:
        raise ConfigError(
            f"data.generator_pattern {pattern!r} has no group; put the generator in parentheses, "
            "such as '^(.+)_[0-9]+[.]'."
        )
    found = [compiled.search(name) for name in names]
    return [match.group(1) if match else None for match in found]
