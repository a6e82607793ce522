"""A row: one image and its score, as the command line selects, shows and keeps it."""

import base64
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ma_agiqa_client._core.ordering import order
from ma_agiqa_client.score import Gate, Interval, Score

Map = npt.NDArray[Any]
"""Patch score times patch weight of one image, float32 (h, w), at least 0.

What each patch contributes to MANIQA's feature (paper Eq. 2); the patches cover the whole picture.
"""


@dataclass(frozen=True)
class Row:
    """One image with its score, or with the reason why it has none.

    Attributes:
        image: path of the image, as the user wrote it.
        mos, normalized, percentile, gate, model: as in `Score`; None if there is an error.
        interval, deviation, familiarity: as in `Score`; None, too, if the model is not calibrated.
        lead: as in `Score`, over the next image of the ranking; None where nothing is ranked.
        prompt, alignment: the text it was compared with, and as in `Score`; None without one.
        error: a sentence, or None.
        group: name of the group in which it is compared; None without grouping.
        map: the patch map, if it was asked for.
    """

    image: str
    mos: float | None = None
    normalized: float | None = None
    percentile: float | None = None
    gate: Gate | None = None
    model: str | None = None
    error: str | None = None
    group: str | None = None
    map: Map | None = field(default=None, repr=False, compare=False)
    interval: Interval | None = None
    deviation: float | None = None
    familiarity: float | None = None
    lead: float | None = None
    prompt: str | None = None
    alignment: float | None = None

    @classmethod
    def from_score(cls, image: str, score: Score, prompt: str | None = None) -> "Row":
        """Make the row of a score."""
        names = (*_NUMBERS, *_WORTH, "alignment", "gate", "model")
        given = {"prompt": prompt, **{name: getattr(score, name) for name in names}}
        if score.patch_score is not None and score.patch_weight is not None:
            given["map"] = (score.patch_score * score.patch_weight).astype(np.float32)
        return cls(image, **given)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Row":
        """Read a scored row that `to_dict` wrote, and the map that `pack_map` wrote.

        Raises:
            KeyError, TypeError, ValueError: the record is another one, or has no score.
        """
        return cls(
            image=_text(record, "image"),
            mos=_number(record, "mos"),
            normalized=_number(record, "normalized"),
            percentile=_number(record, "percentile"),
            **_worth(record),
            gate=Gate(*(_number(record["gate"], name) for name in _SHARES)),
            model=_text(record, "model"),
            map=_unpack_map(record["map"]) if record.get("map") else None,
            **_compared(record),
        )

    def without_map(self) -> "Row":
        """Return the row without its map: a few hundred bytes."""
        return replace(self, map=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the row for JSON; `gate` is an object or null, `error` a sentence or null.

        `group` is included only if images are grouped, `lead` only if they are ranked, and `prompt`
        and `alignment` only if there is a prompt. The map is left out.
        """
        record = {name: getattr(self, name) for name in _FIELDS}
        for name in ("group", "lead", "prompt", "alignment"):
            if record[name] is None:
                del record[name]
        record["interval"] = None if self.interval is None else list(self.interval)
        return record | {"gate": None if self.gate is None else dict(vars(self.gate))}


_NUMBERS = ("mos", "normalized", "percentile")
_SHARES = ("semantic", "coherence", "quality")
_WORTH = ("interval", "deviation", "familiarity")
_COMPARED = ("alignment", "prompt")
_FIELDS = ("image", "group", *_NUMBERS, *_WORTH, "lead", *_COMPARED, "gate", "model", "error")


def best_first(rows: Iterable[Row]) -> list[Row]:
    """Sort by falling MOS; images without a score come last, in their original order."""
    return sorted(rows, key=lambda row: order(row.mos))


def pack_map(values: Map) -> dict[str, Any]:
    """Return a map for JSON: its shape, and float16 values in base64."""
    data = base64.b64encode(values.astype("<f2").tobytes()).decode("ascii")
    return {"shape": list(values.shape), "values": data}


def _unpack_map(record: Mapping[str, Any]) -> Map:
    height, width = record["shape"]
    values = np.frombuffer(base64.b64decode(record["values"], validate=True), "<f2")
    if not values.size or not np.isfinite(values).all():
        raise ValueError("its map has no finite values")
    return values.astype(np.float32).reshape(int(height), int(width))


def _worth(record: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a calibrated model gives; nothing where the score is of another one."""
    if record.get("interval") is None:
        return {}
    low, high = map(float, record["interval"])
    numbers = {name: _number(record, name) for name in ("deviation", "familiarity")}
    return {"interval": Interval(low, high), **numbers}


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    """Read the prompt and the alignment; nothing where there is no prompt."""
    if record.get("prompt") is None:
        return {}
    return {"prompt": _text(record, "prompt"), "alignment": _number(record, "alignment")}


def _number(record: Mapping[str, Any], name: str) -> float:
    value = float(record[name])
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return value


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise TypeError(f"{name} is no text")
    return str(record[name])
