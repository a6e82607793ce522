"""What scoring an image gives: a `Score`, or a `Failure` that says why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ma_agiqa_client.errors import ClientError

__all__ = ["Failure", "Gate", "Interval", "Score"]


@dataclass(frozen=True)
class Gate:
    """How much each of the three features counted for one image (paper Eq. 4).

    The shares are the gate's weights by magnitude, |alpha_i| / sum |alpha|: each is in 0-1, and
    they sum to 1. They say what the network looked at, not what is wrong with the image.

    Attributes:
        semantic: share of the language model's answer about semantic content.
        coherence: share of the language model's answer about coherence.
        quality: share of MANIQA's low-level quality feature.
    """

    semantic: float
    coherence: float
    quality: float

    @classmethod
    def from_weights(cls, weights: Sequence[float]) -> "Gate":
        """Turn served gate weights, in the order of the fields, into shares.

        If all weights are zero, no feature counts and all shares are 0.
        """
        magnitudes = np.abs(np.asarray(weights, np.float64))
        total = magnitudes.sum()
        semantic, coherence, quality = magnitudes / total if total > 0 else magnitudes
        return cls(float(semantic), float(coherence), float(quality))


class Interval(NamedTuple):
    """Where people's MOS is, with the probability that the card states (`Calibration.level`).

    Attributes:
        low, high: ends of the interval, on the scale of the model's data set.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """The predicted quality of one image.

    Attributes:
        source: the object that was given, such as a path; it is not copied.
        mos: predicted mean opinion score, on the scale of the model's data set; higher is better.
        normalized: the same on 0-1: (mos - mos_min) / (mos_max - mos_min), clipped.
        percentile: percentage of the model's training images that people rated lower, 0-100.
        gate: how much each feature counted.
        latency_ms: time from the call to the answer in milliseconds, retries included.
        model: name of the model that answered.
        request_id: the id of this image in the server's log and traces.
        index: position of the image in `score_many` or `rank`, from 0; None after `score`.
        interval: where people's MOS is, usually with a probability of 90 %; None, as the next two,
            if the model is not calibrated. It holds for images like those of the training.
        deviation: standard deviation of people's MOS around `mos` that the model predicts for this
            image.
        familiarity: how near the image is to those of the training, 0-1: the share of held-out
            images that are at least as far. See `Calibration.is_familiar`.
        lead: probability that people would rate the image higher than the next one, in the result
            of `rank`; None for the last one, after other calls, and if the model is not calibrated.
            Below 0.75 the two tie, as in `Comparison`.
        alignment: how well the image shows its prompt, 0-1: the probability with which the served
            language model answers "Yes" when it is asked (`ModelCard.alignment` says how). None
            without a prompt. It was not validated against people, and `mos` does not depend on it.
        checkpoint_sha256: SHA-256 of the weights of the model that answered, as in its card.
        patch_score: float32 (h, w), quality of each patch (paper Eq. 2); None unless `maps=True`.
        patch_weight: float32 (h, w) in 0-1, weight of each patch (Eq. 2); None unless `maps=True`.
        error: always None; a `Failure` has the reason here.
    """

    error: ClassVar[None] = None

    source: Any = field(repr=False, compare=False)
    mos: float
    normalized: float
    percentile: float
    gate: Gate
    latency_ms: float
    model: str
    request_id: str = ""
    index: int | None = None
    interval: Interval | None = None
    deviation: float | None = None
    familiarity: float | None = None
    lead: float | None = None
    alignment: float | None = None
    checkpoint_sha256: str = field(default="", repr=False)
    patch_score: npt.NDArray[Any] | None = field(default=None, repr=False, compare=False)
    patch_weight: npt.NDArray[Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Failure:
    """An image among several that has no score.

    Attributes:
        source: the object that was given, such as a path; it is not copied.
        error: why the image has no score.
        latency_ms: time from the call to the failure in milliseconds, retries included.
        model: name of the served model; None if it is not known.
        request_id: the id of this image in the server's log and traces; empty if it was not sent.
        index: position of the image in `score_many` or `rank`, from 0.
    """

    source: Any = field(repr=False, compare=False)
    error: ClientError
    latency_ms: float = 0.0
    model: str | None = None
    request_id: str = ""
    index: int | None = None
