"""What scoring one image gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ma_agiqa_client.errors import ClientError

__all__ = ["Gate", "Score"]


@dataclass(frozen=True)
class Gate:
    """How much each of the three features counted for one image (paper Eq. 4).

    The shares are the gate's weights by magnitude, |alpha_i| / sum |alpha|: each in 0-1, together
    1. They say what the network looked at, not what is wrong with the image.

    Attributes:
        semantic: share of the LMM's answer about semantic content.
        coherence: share of the LMM's answer about coherence.
        quality: share of MANIQA's low-level quality feature.
    """

    semantic: float
    coherence: float
    quality: float

    @classmethod
    def from_weights(cls, weights: Sequence[float]) -> "Gate":
        """Turn served gate weights, in the order of the fields, into shares.

        If all are zero, no feature counts and all shares are 0.
        """
        magnitudes = np.abs(np.asarray(weights, np.float64))
        total = magnitudes.sum()
        semantic, coherence, quality = magnitudes / total if total > 0 else magnitudes
        return cls(float(semantic), float(coherence), float(quality))


@dataclass(frozen=True)
class Score:
    """The predicted quality of one image, or why there is none.

    Either `error` is None and mos, normalized, percentile and gate are set, or `error` is set and
    those four are None.

    Attributes:
        source: the very object that was given, such as a path; nothing is copied.
        mos: predicted mean opinion score, on the scale of the model's data set; higher is better.
        normalized: the same on 0-1: (mos - mos_min) / (mos_max - mos_min), clipped.
        percentile: percent of the model's training images that people rated lower, 0-100.
        gate: how much each feature counted.
        latency_ms: time from the call to the answer in milliseconds, retries included.
        model: name of the model that answered; None if it could not be asked.
        request_id: the id that the server's log and traces show for this image.
        index: position of the image in `score_many` or `rank`, from 0; None after `score`.
        patch_score: float32 (h, w), quality of each patch (paper Eq. 2); only if asked for.
        patch_weight: float32 (h, w) in 0-1, weight of each patch (Eq. 2); only if asked for.
        error: why the image has no score.
    """

    source: Any = field(repr=False, compare=False)
    mos: float | None
    normalized: float | None
    percentile: float | None
    gate: Gate | None
    latency_ms: float
    model: str | None
    request_id: str = ""
    index: int | None = None
    patch_score: npt.NDArray[Any] | None = field(default=None, repr=False, compare=False)
    patch_weight: npt.NDArray[Any] | None = field(default=None, repr=False, compare=False)
    error: ClientError | None = None

    @classmethod
    def failed(
        cls,
        error: ClientError,
        latency_ms: float = 0.0,
        model: str | None = None,
        *,
        source: Any = None,
        request_id: str = "",
        index: int | None = None,
    ) -> "Score":
        """A score that says why there is none."""
        return cls(
            source=source,
            mos=None,
            normalized=None,
            percentile=None,
            gate=None,
            latency_ms=latency_ms,
            model=model,
            request_id=request_id,
            index=index,
            error=error,
        )
