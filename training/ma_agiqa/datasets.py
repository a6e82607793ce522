"""Tables of images with mean opinion scores, and their division into parts (paper §4.1).

A table is a CSV file with one row per image. Its images lie in a folder beside it. Rows are
numbered as a spreadsheet shows them: the header is row 1.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ma_agiqa.errors import ConfigError, DataError

__all__ = ["PARTS", "Columns", "RatedImage", "Split", "read_table", "split_by_group"]

PARTS = ("train", "validation", "test")

_FIRST_ROW = 2  # the header is row 1


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table.

    Attributes:
        image: file name, relative to the image folder.
        mos: mean opinion score.
        group: what must stay together in a split; None if every image stands alone.
    """

    image: str = "image"
    mos: str = "mos"
    group: str | None = None


@dataclass(frozen=True)
class RatedImage:
    """One row of a table.

    Attributes:
        name: file name as the table gives it; unique.
        path: where the file is.
        mos: its mean opinion score.
        group: images of one group never go to different parts.
    """

    name: str
    path: Path
    mos: float
    group: str


@dataclass(frozen=True)
class Split:
    """Images of each part; none occurs twice, none is left out."""

    train: tuple[RatedImage, ...]
    validation: tuple[RatedImage, ...]
    test: tuple[RatedImage, ...]

    def items(self) -> Iterator[tuple[str, tuple[RatedImage, ...]]]:
        """Pairs of a part's name and its images, in the order of PARTS."""
        for part in PARTS:
            yield part, getattr(self, part)

    def rows(self) -> list[tuple[str, str]]:
        """Pairs (image name, part), as `split.csv` holds them."""
        return [(image.name, part) for part, images in self.items() for image in images]

    def sha256(self) -> str:
        """Hash of the rows; equal for equal splits."""
        text = "\n".join(f"{part}\t{name}" for name, part in self.rows())
        return hashlib.sha256(text.encode()).hexdigest()


def read_table(
    csv: str | Path,
    image_folder: str | Path | None = None,
    columns: Columns | None = None,
    mos_range: tuple[float, float] = (0.0, 5.0),
) -> tuple[RatedImage, ...]:
    """Read a CSV file and find its images.

    Args:
        csv: the table.
        image_folder: by default `images` beside the table.
        columns: names of the columns; others are ignored.
        mos_range: lowest and highest possible score.

    Raises:
        DataError: the table cannot be read or is empty, a column or an image file is missing, a
            score is no number or outside the range, or an image is listed twice. The message
            names the file and the row.
    """
    csv, columns = Path(csv), columns or Columns()
    folder = Path(image_folder) if image_folder is not None else csv.parent / "images"
    table = _read_csv(csv)
    wanted = [columns.image, columns.mos] + ([columns.group] if columns.group else [])
    if missing := [name for name in wanted if name not in table.columns]:
        raise DataError(f"{csv.name} has no column {missing}; its columns are {list(table)}.")
    if table.empty:
        raise DataError(f"{csv.name} has a header but no rows.")
    names, groups = table[columns.image].str.strip(), table[columns.group or columns.image]
    scores = [_score(csv, row, text, mos_range) for row, text in _numbered(table[columns.mos])]
    _check_names(csv, names, folder)
    return tuple(
        RatedImage(name, folder / name, score, group)
        for name, score, group in zip(names, scores, groups, strict=True)
    )


def split_by_group(
    images: Sequence[RatedImage], seed: int, validation: float = 0.1, test: float = 0.2
) -> Split:
    """Divide images so that no group is in two parts.

    The sorted groups are shuffled; the first `test` share of them is the test part, the next
    `validation` share the validation part, the rest the train part.

    Raises:
        ConfigError: impossible shares.
        DataError: a part would be empty.
    """
    if min(validation, test) <= 0 or validation + test >= 1:
        raise ConfigError(
            f"validation {validation} and test {test}: both must be above 0 and their sum below 1."
        )
    groups = sorted({image.group for image in images})
    order = np.random.default_rng(seed).permutation(len(groups))
    first, second = round(test * len(groups)), round((test + validation) * len(groups))
    bounds = {"test": (0, first), "validation": (first, second), "train": (second, len(groups))}
    part_of = {
        groups[index]: part for part, (start, stop) in bounds.items() for index in order[start:stop]
    }
    return _split(images, part_of, len(groups))


def _split(images: Sequence[RatedImage], part_of: Mapping[str, str], groups: int) -> Split:
    parts = {
        part: tuple(image for image in images if part_of[image.group] == part) for part in PARTS
    }
    if empty := [part for part, members in parts.items() if not members]:
        raise DataError(
            f"The split leaves {empty} empty: {len(images)} images in {groups} groups are too few."
        )
    return Split(**parts)


def _read_csv(csv: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(csv, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except OSError as error:
        raise DataError(f"Cannot read the table {csv}: {error.strerror}.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{csv.name} is not a CSV table: {error}") from error


def _numbered(values: pd.Series) -> Iterator[tuple[int, str]]:
    return enumerate(values, start=_FIRST_ROW)


def _score(csv: Path, row: int, text: str, mos_range: tuple[float, float]) -> float:
    low, high = mos_range
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not low <= score <= high:
        raise DataError(
            f"{csv.name}, row {row}: the score is {text!r}; expected a number in {low}..{high}."
        )
    return score


def _check_names(csv: Path, names: pd.Series, folder: Path) -> None:
    repeated = {name for name, count in Counter(names).items() if count > 1}
    for row, name in _numbered(names):
        if not name:
            raise DataError(f"{csv.name}, row {row}: the image name is empty.")
        if name in repeated:
            raise DataError(f"{csv.name}, row {row}: {name} is listed more than once.")
        if not (folder / name).is_file():
            raise DataError(f"{csv.name}, row {row}: there is no file {name} in {folder}.")
