"""A row: one image and its score, as the command line selects, shows and keeps it."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ma_agiqa_client._core.ordering import order
from ma_agiqa_client.score import Gate, Score


@dataclass(frozen=True)
class Patches:
    """The patch maps of one image; they cover the whole picture (paper Eq. 2).

    Attributes:
        score: float32 (h, w), quality of each patch, at least 0.
        weight: float32 (h, w) in 0-1, how much each patch counts.
    """

    score: npt.NDArray[Any]
    weight: npt.NDArray[Any]

    @property
    def quality(self) -> npt.NDArray[Any]:
        """Score times weight, float32 (h, w): what each patch contributes to MANIQA's feature."""
        product: npt.NDArray[Any] = (self.score * self.weight).astype(np.float32)
        return product

    def to_dict(self) -> dict[str, Any]:
        """Return both maps for JSON: their shape, and float16 values in base64."""
        shape = list(self.score.shape)
        return {"shape": shape, "score": _pack(self.score), "weight": _pack(self.weight)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Patches":
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the record is not one of `to_dict`.
        """
        height, width = record["shape"]
        shape = (int(height), int(width))
        return cls(_unpack(record["score"], shape), _unpack(record["weight"], shape))


@dataclass(frozen=True)
class Row:
    """One image with its score, or with the reason why it has none.

    Attributes:
        image: path of the image, as the user wrote it.
        mos, normalized, percentile, gate, model: as in `Score`; None if there is an error.
        error: a sentence, or None.
        group: name of the group in which it is compared; None without grouping.
        patches: the patch maps, if they were asked for.
    """

    image: str
    mos: float | None = None
    normalized: float | None = None
    percentile: float | None = None
    gate: Gate | None = None
    model: str | None = None
    error: str | None = None
    group: str | None = None
    patches: Patches | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_score(cls, image: str, score: Score) -> "Row":
        """Make the row of a score."""
        patches = None
        if score.patch_score is not None and score.patch_weight is not None:
            patches = Patches(score.patch_score, score.patch_weight)
        return cls(
            image=image,
            mos=score.mos,
            normalized=score.normalized,
            percentile=score.percentile,
            gate=score.gate,
            model=score.model,
            patches=patches,
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Row":
        """Read a scored row that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the record is not one of `to_dict`, or has no score.
        """
        return cls(
            image=str(record["image"]),
            mos=float(record["mos"]),
            normalized=float(record["normalized"]),
            percentile=float(record["percentile"]),
            gate=Gate(**record["gate"]),
            model=str(record["model"]),
            patches=Patches.from_dict(record["patches"]) if record.get("patches") else None,
        )

    def without_patches(self) -> "Row":
        """Return the row without its maps: a few hundred bytes."""
        return replace(self, patches=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the row for JSON; `gate` is an object or null, `error` a sentence or null.

        `group` is included only if images are grouped. The patch maps are left out.
        """
        gate = self.gate
        return {
            "image": self.image,
            **({} if self.group is None else {"group": self.group}),
            "mos": self.mos,
            "normalized": self.normalized,
            "percentile": self.percentile,
            "gate": gate
            and {"semantic": gate.semantic, "coherence": gate.coherence, "quality": gate.quality},
            "model": self.model,
            "error": self.error,
        }


def best_first(rows: Iterable[Row]) -> list[Row]:
    """Sort by falling MOS; images without a score come last, in their original order."""
    return sorted(rows, key=lambda row: order(row.mos))


def _pack(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.astype("<f2").tobytes()).decode("ascii")


def _unpack(text: str, shape: tuple[int, int]) -> npt.NDArray[Any]:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"The map is not base64: {error}.") from error
    return np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)
