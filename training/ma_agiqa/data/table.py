"""Reading a table of rated images.

A table is a CSV file with one row per image; its images are in a folder next to it. Rows are
numbered as a spreadsheet shows them: the header is row 1.
"""

import codecs
import csv as csv_format
import io
import math
import os
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
        group: what must stay together in a split; None if every image stands alone, as does a row
            where it is empty.
        compared: what a ranking loss compares, such as the versions of one picture; None for the
            images of a group. A row where it is empty is compared with none.
    """

    image: str = "image"
    mos: str = "mos"
    prompt: str = "prompt"
    generator: str = "model"
    group: str | None = None
    compared: str | None = None

    @property
    def required(self) -> list[str]:
        """Columns that a table must have."""
        chosen = [
            name for name in (self.prompt, self.generator) if name not in (_PROMPT, _GENERATOR)
        ]
        chosen += [name for name in (self.group, self.compared) if name]
        return [self.image, self.mos, *chosen]


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
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
        compared: a ranking loss compares the images that have the same.
    """

    name: str
    path: Path
    mos: float
    group: str
    row: int = 0
    prompt: str | None = None
    generator: str | None = None
    compared: str = ""


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
    scores = [parse_number(text) for text in table[columns.mos]]
    _check_scale(csv, table[columns.mos], scores, mos_range)
    problems = [*_bad_scores(table[columns.mos], scores), *_bad_names(names, folder)]
    if problems:
        raise DataError(f"{csv}: {listed(f'row {row}: {text}' for row, text in sorted(problems))}")
    groups, compared = (
        table[column or columns.image].str.strip()
        for column in (columns.group, columns.compared or columns.group)
    )
    generators = _generators(table, names, columns, generator_pattern)
    prompts = _optional(table, columns.prompt)
    values = zip(names, scores, groups, prompts, generators, compared, strict=True)
    return tuple(
        RatedImage(name, folder / name, score, group or name, row, prompt, generator, unit or name)
        for row, (name, score, group, prompt, generator, unit) in _numbered(values)
    )


def read_csv(path: Path, required: Sequence[str], hint: str) -> pd.DataFrame:
    """Read a CSV file (UTF-8, commas) as text.

    Args:
        path: the file.
        required: columns that it must have.
        hint: sentence for a message when a column is missing.

    Returns:
        A frame of str with the index 0..N-1; what a short row lacks is "".

    Raises:
        DataError: the file cannot be read, is not such a table, has no rows, lacks a column or has
            it twice, or a row has more values than the header. The message says what was seen.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    text = _decoded(path, content)
    first = next(iter(text.splitlines()), "")
    header = next(csv_format.reader([first]), [])
    if first.lower().startswith("sep="):
        raise DataError(f"{path} begins with the line {first!r}, for Excel alone. Remove it.")
    missing = [name for name in required if name not in header]
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if missing and sign in first:
            raise DataError(
                f"{path} seems to have {name} between its values: its first line is "
                f"{first!r}. Save it as a CSV file with commas, and with points in "
                "its numbers."
            )
    if twice := [name for name in required if header.count(name) > 1]:
        raise DataError(f"{path} has {header.count(twice[0])} columns {twice[0]!r}. Rename one.")
    try:
        table = pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
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


def parse_number(text: str) -> float:
    """Read a decimal number as tables hold it; what is none, such as 0_4 or "1,5", is NaN."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else math.nan


def listed(sentences: Iterable[str], shown: int = 10) -> str:
    """Join the sentences of an error: one stays on its line, of many the first ones are shown."""
    found = list(sentences)
    if len(found) == 1:
        return found[0]
    more = [f"... {len(found) - shown:,} more"] if len(found) > shown else []
    return f"{len(found):,} problems\n  " + "\n  ".join([*found[:shown], *more])


def _numbered(values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate(values, start=FIRST_ROW)


def _decoded(path: Path, content: bytes) -> str:
    """The text of a file, without a byte-order mark."""
    for mark, name in ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):
        if content.startswith(mark):
            raise DataError(f"{path} is {name} text. Save it as UTF-8 (in Excel: CSV UTF-8).")
    if (null := content.find(b"\0")) >= 0:
        row = content.count(b"\n", 0, null) + 1
        raise DataError(
            f"{path}, row {row}: the text holds a null character, "
            "after which nothing would be read. Remove it, or save the file as UTF-8."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        begin, end = max(0, error.start - 10), error.start + 10
        seen = content[begin:end].decode("cp1252", errors="replace")
        raise DataError(
            f"{path} is not UTF-8: row {row} has a byte 0x{content[error.start]:02X}. It is "
            f"probably Latin-1 or Windows-1252 text ({seen!r}). Save it as UTF-8."
        ) from error


def _check_scale(
    csv: Path, texts: pd.Series, scores: Sequence[float], mos_range: tuple[float, float]
) -> None:
    """Say in a sentence what is wrong with many scores alike.

    Raises:
        DataError: decimal commas, or scores outside the range.
    """
    for row, text in _numbered(texts):
        if _DECIMAL_COMMA.fullmatch(text.strip()):
            point = text.strip().replace(",", ".")
            raise DataError(
                f"{csv}, row {row}: the score is {text!r}, with a decimal comma. Write decimal "
                f"points in all rows, such as {point}."
            )
    low, high = mos_range
    outside = [(row, score) for row, score in _numbered(scores) if not low <= score <= high]
    outside = [(row, score) for row, score in outside if not math.isnan(score)]
    if outside:
        row, score = outside[0]
        known = [score for score in scores if not math.isnan(score)]
        raise DataError(
            f"{csv}: {len(outside):,} of {len(scores):,} scores are outside data.mos_range "
            f"({low:g} to {high:g}), the first one in row {row} ({score:g}); the scores go from "
            f"{min(known):g} to {max(known):g}. Correct them, or set data.mos_range to the lowest "
            "and the highest possible score."
        )


def _bad_scores(texts: pd.Series, scores: Sequence[float]) -> Iterator[tuple[int, str]]:
    for row, (text, score) in _numbered(zip(texts, scores, strict=True)):
        if math.isnan(score):
            yield row, f"the score is {text!r}; expected a number."


def _bad_names(names: pd.Series, folder: Path) -> Iterator[tuple[int, str]]:
    paths = [os.path.normpath(name) for name in names]  # ./a.png is a.png
    counts = Counter(paths)
    for row, (name, path) in _numbered(zip(names, paths, strict=True)):
        if not name:
            yield row, "the image name is empty."
        elif counts[path] > 1:
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
