"""Predicted scores as a table, which evaluation, baselines and figures exchange.

A CSV file (UTF-8, one row per image), with these columns:

    image            name of the image, as the data set's table gives it; unique
    mos              mean opinion score
    score            predicted score, on any scale
    prompt           text the image was made from; empty where unknown
    generator        model that made the image; empty where unknown
    group            what the image shares with others that are no independent evidence, such as
                     its photograph; empty where unknown
    gate_semantic    weights of the scorer's three inputs (paper Eq. 4); all three empty where the
    gate_coherence   method has none
    gate_quality
    interval_low     ends of the interval that is to hold the MOS; both empty where there is none
    interval_high

Numbers are written so that reading gives them back exactly. A file from elsewhere may leave out
everything but the first three columns; columns of other names are not read.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ma_agiqa.data.table import FIRST_ROW, RatedImage, parse_number, read_csv
from ma_agiqa.errors import DataError
from ma_agiqa.files import write_whole
from ma_agiqa.tensors import GATE_ORDER

GATE_COLUMNS = tuple(f"gate_{name}" for name in GATE_ORDER)
"""Columns of the gate's weights, in the gate's order."""

INTERVAL_COLUMNS = ("interval_low", "interval_high")
"""Columns of the ends of the intervals."""

_REQUIRED = ("image", "mos", "score")
_TEXTS = ("prompt", "generator", "group")

_OPTIONAL = (*GATE_COLUMNS, *INTERVAL_COLUMNS)

COLUMNS = (*_REQUIRED, *_TEXTS, *_OPTIONAL)
"""All columns, in the order in which they are written."""

_MOS_TOLERANCE = 1e-4  # ratings that were rounded in between are still the same


def build_predictions(
    images: Sequence[RatedImage],
    scores: ArrayLike,
    gates: ArrayLike | None = None,
    intervals: ArrayLike | None = None,
) -> pd.DataFrame:
    """Put images and their scores into a table.

    Args:
        images: the rated images, in the order of the scores.
        scores: predicted score per image (N,).
        gates: weights of semantic, coherence and quality per image (N, 3); None without them.
        intervals: low and high end per image (N, 2); None without them.

    Returns:
        A frame with COLUMNS and the index 0..N-1: texts as str ("" where unknown), numbers as
        float64 (gates and intervals NaN where there are none).

    Raises:
        DataError: a number of scores or gates other than that of the images, a score that is not
            finite, or an image that occurs twice; the message names the image.
    """
    count = len(images)
    score = np.asarray(scores, np.float64)
    gate = np.full((count, 3), np.nan) if gates is None else np.asarray(gates, np.float64)
    ends = np.full((count, 2), np.nan) if intervals is None else np.asarray(intervals, np.float64)
    if score.shape != (count,) or gate.shape != (count, 3) or ends.shape != (count, 2):
        raise DataError(
            f"{count} images, but scores of shape {score.shape}, gates of shape {gate.shape} and "
            f"intervals of shape {ends.shape}; expected ({count},), ({count}, 3) and ({count}, 2)."
        )
    if (bad := np.flatnonzero(~np.isfinite(score))).size:
        raise DataError(
            f"The score of {images[bad[0]].name} is {score[bad[0]]}; it must be finite."
        )
    frame = pd.DataFrame(
        {
            "image": [image.name for image in images],
            "mos": np.array([image.mos for image in images], np.float64),
            "score": score,
            "prompt": [image.prompt or "" for image in images],
            "generator": [image.generator or "" for image in images],
            "group": ["" if image.group == image.name else image.group for image in images],
            **dict(zip(GATE_COLUMNS, gate.T, strict=True)),
            **dict(zip(INTERVAL_COLUMNS, ends.T, strict=True)),
        }
    )
    if (repeated := frame["image"].duplicated()).any():
        raise DataError(f"{frame.loc[repeated, 'image'].iloc[0]} was scored more than once.")
    return frame


def has_gates(frame: pd.DataFrame) -> bool:
    """Whether every row has the weights of the gate."""
    return _has_all(frame, GATE_COLUMNS)


def has_intervals(frame: pd.DataFrame) -> bool:
    """Whether every row has an interval."""
    return _has_all(frame, INTERVAL_COLUMNS)


def _has_all(frame: pd.DataFrame, names: Sequence[str]) -> bool:
    return bool(len(frame)) and bool(frame.reindex(columns=names).notna().all(axis=None))


def write_predictions(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write predictions in one step: a crash or a full disk leaves the old file or none.

    Args:
        frame: as `build_predictions` gives it; gates and intervals may be left out.
        path: the CSV file; its folder is made.

    Raises:
        DataError: the file cannot be written.
    """
    text = _with_all_columns(frame).to_csv(index=False, lineterminator="\n")
    return write_whole(path, text)


def read_predictions(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read predictions and check every row.

    Returns:
        A frame as `build_predictions` gives it; columns that the file lacks are filled with "" or
        NaN.

    Raises:
        DataError: the file cannot be read, has no rows or lacks a column, an image has no name or
            occurs twice, MOS or score is no finite number, or a row has some of its gates or
            one end of its interval only.
            The message names the file and the row, counted as a spreadsheet does.
    """
    path = Path(path)
    table = read_csv(path, _REQUIRED, f"Predictions have the columns {list(COLUMNS)}.")
    frame = pd.DataFrame({"image": table["image"].str.strip()})
    _check_names(path, frame["image"])
    for name in ("mos", "score"):
        frame[name] = _numbers(path, table, name)
    for name in _TEXTS:
        frame[name] = table.get(name, "")
    for name in _OPTIONAL:
        frame[name] = _numbers(path, table, name, empty_allowed=True) if name in table else np.nan
    for names in (GATE_COLUMNS, INTERVAL_COLUMNS):
        _check_complete(path, frame, names)
    return frame[list(COLUMNS)]


def align_predictions(
    frame: pd.DataFrame, reference: pd.DataFrame, path: str | os.PathLike[str]
) -> pd.DataFrame:
    """Put predictions into the order of others of the same images.

    Args:
        frame: as `read_predictions` gives it; gates and intervals may be left out.
        reference: the others; prompts, generators and groups are taken from them.
        path: file of the frame, for messages.

    Raises:
        DataError: an image that only one of the two has, or whose MOS differs; names the file and
            the row.
    """
    row_of = {name: row for row, name in enumerate(frame["image"], start=FIRST_ROW)}
    wanted = list(reference["image"])
    if foreign := sorted(set(row_of) - set(wanted), key=lambda name: row_of[name]):
        raise DataError(
            f"{path}, row {row_of[foreign[0]]}: {foreign[0]} is not among the {len(wanted):,} "
            f"images to compare; {len(foreign):,} such rows."
        )
    if absent := [name for name in wanted if name not in row_of]:
        raise DataError(
            f"{path} has no row for {len(absent):,} of the {len(wanted):,} images to compare, such "
            f"as {absent[0]}."
        )
    found = frame.set_index("image").loc[wanted].reset_index()
    differs = ~same_mos(found, reference)
    if differs.any():
        index = int(np.argmax(differs))
        raise DataError(
            f"{path}, row {row_of[wanted[index]]}: the MOS of {wanted[index]} is "
            f"{found['mos'][index]}, but {reference['mos'].iloc[index]} in the others; compare "
            "predictions for the same ratings."
        )
    for name in _TEXTS:
        found[name] = list(reference[name])
    return _with_all_columns(found)


def same_mos(one: pd.DataFrame, other: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each row has the same MOS in two tables of predictions of the same images, (N,)."""
    return np.isclose(one["mos"], other["mos"], rtol=0, atol=_MOS_TOLERANCE)


def _with_all_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Give `COLUMNS` in their order, gates and intervals that are not there as NaN."""
    absent = [name for name in _OPTIONAL if name not in frame]
    return frame.reindex(columns=[*frame.columns, *absent])[list(COLUMNS)]


def _numbers(path: Path, table: pd.DataFrame, name: str, empty_allowed: bool = False) -> pd.Series:
    texts = table[name].str.strip()
    numbers = pd.Series([parse_number(text) for text in texts], dtype=np.float64)
    bad = ~np.isfinite(numbers)
    if empty_allowed:
        bad &= texts != ""
    if bad.any():
        index = int(bad.idxmax())
        raise DataError(
            f"{path}, row {index + FIRST_ROW}: {name} is {table[name][index]!r}; "
            "expected a finite number."
        )
    return numbers


def _check_names(path: Path, names: pd.Series) -> None:
    if (empty := names == "").any():
        raise DataError(f"{path}, row {int(empty.idxmax()) + FIRST_ROW}: the image has no name.")
    if (repeated := names.duplicated()).any():
        index = int(repeated.idxmax())
        first = int((names == names[index]).idxmax())
        raise DataError(
            f"{path}, row {index + FIRST_ROW}: {names[index]} is in row {first + FIRST_ROW} "
            "already; each image must have one row."
        )


def _check_complete(path: Path, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse a row that has some of the values and not the others."""
    given = frame[list(names)].notna().sum(axis=1)
    if (partial := given.between(1, len(names) - 1)).any():
        raise DataError(
            f"{path}, row {int(partial.idxmax()) + FIRST_ROW}: only some of {list(names)} are "
            "given; give all or none."
        )
