"""The model card: what the scores mean, read from the ensemble's configuration."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ma_agiqa_client.errors import WrongModelError
from ma_agiqa_client.score import Interval, Score

__all__ = ["Alignment", "Calibration", "ModelCard"]

_STRINGS = ("name", "preset", "dataset", "checkpoint_sha256", "created", "gate_activation", "note")
_PERCENTS = np.arange(101.0)


class Worth(Protocol):
    """What is used of a `Score`, or of something that was made from one."""

    @property
    def mos(self) -> float | None: ...

    @property
    def deviation(self) -> float | None: ...

    @property
    def familiarity(self) -> float | None: ...


@dataclass(frozen=True)
class Calibration:
    """How far the scores of a model may be off, measured on images that it did not learn from.

    Attributes:
        level: probability with which `Score.interval` holds people's MOS.
        reach: half the width of that interval in deviations (`Score.deviation`).
        reaches: the same for other levels, by level.
        errors: quantiles of (people's MOS - score) / deviation, ascending, equally spaced.
        threshold: below this familiarity a score is an extrapolation.
        record: everything that the export wrote: method, number of images, measured coverage.
    """

    level: float
    reach: float
    reaches: Mapping[float, float]
    errors: tuple[float, ...]
    threshold: float
    record: Mapping[str, Any]

    def is_familiar(self, score: "Worth") -> bool:
        """Return whether an image is like those of the training, so that its interval holds."""
        return score.familiarity is None or score.familiarity >= self.threshold

    def interval(self, score: Score, level: float) -> Interval:
        """Return the interval at another level, which may reach beyond the scale.

        Raises:
            ValueError: `level` is not among `reaches`, or the score has no interval.
        """
        if level not in self.reaches or score.deviation is None:
            raise ValueError(f"level is {level}; this model has {sorted(self.reaches)}.")
        half = self.reaches[level] * score.deviation
        return Interval(score.mos - half, score.mos + half)

    def lead(self, a: "Worth", b: "Worth") -> float | None:
        """Return `probability`, or None where a score has no deviation: it is of another model."""
        return None if a.deviation is None or b.deviation is None else self.probability(a, b)

    def probability(self, a: "Worth", b: "Worth") -> float:
        """Return the probability that people would rate image `a` higher than `b`.

        Both may be off, independently of each other, by any of `errors` times their deviation.

        Raises:
            ValueError: a score has no deviation.
        """
        if a.mos is None or a.deviation is None or b.mos is None or b.deviation is None:
            raise ValueError("The scores have no deviation: they are of another model.")
        errors = np.array(self.errors)
        first, second = a.mos + a.deviation * errors, b.mos + b.deviation * errors
        difference = first[:, None] - second
        return float((difference > 0).mean() + (difference == 0).mean() / 2)


@dataclass(frozen=True)
class Alignment:
    """How the server compares an image with its prompt; not validated against people.

    Attributes:
        question: what its language model is asked; `{prompt}` stands for the prompt.
        answer: `Score.alignment` is the probability of this word, as in VQAScore (Lin et al. 2024).
        against: if not None, that probability divided by the sum with this word's.
    """

    question: str
    answer: str
    against: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """The served model and the scale of its scores.

    Attributes:
        name: the model's name.
        preset: `demo` or `paper`.
        dataset: data set whose opinion scores the model learned to predict.
        mos_min: lower end of that data set's MOS scale.
        mos_max: upper end of that scale; higher is better.
        metrics: agreement with people on held-out images, such as srcc, plcc, krcc and rmse, and
            the split.
        mos_quantiles: the 0, 1, ... 100 % quantiles of the training images' MOS; 101 numbers.
        checkpoint_sha256: SHA-256 of the served weights.
        created: time of the export, ISO 8601, UTC.
        gate_activation: last function of the gate: none, sigmoid or softmax.
        note: a sentence for the reader of the scores; may be empty.
        version: number of the served version; 0 if the server does not report it.
        calibration: what the scores are worth; None if the model was not calibrated, so that they
            have no intervals.
        alignment: how images are compared with prompts; None if the server does not do that.
    """

    name: str
    preset: str
    dataset: str
    mos_min: float
    mos_max: float
    metrics: Mapping[str, Any] = field(hash=False)
    mos_quantiles: tuple[float, ...] = field(repr=False)
    checkpoint_sha256: str
    created: str
    gate_activation: str
    note: str = ""
    version: int = 0
    calibration: Calibration | None = field(default=None, hash=False, repr=False)
    alignment: Alignment | None = None

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> "ModelCard":
        """Read the string parameters of the ensemble's configuration.

        Raises:
            WrongModelError: a parameter is missing or malformed; the message names it.
        """
        strings = {name: _string(parameters, name) for name in _STRINGS}
        mos_min, mos_max = _number(parameters, "mos_min"), _number(parameters, "mos_max")
        if not (mos_min < mos_max and math.isfinite(mos_max - mos_min)):
            raise _malformed("mos_max", str(mos_max), f"a number above mos_min = {mos_min}")
        return cls(
            mos_min=mos_min,
            mos_max=mos_max,
            metrics=_metrics(parameters),
            mos_quantiles=_quantiles(parameters),
            version=_version(parameters),
            calibration=_calibration(parameters),
            alignment=_alignment(parameters),
            **strings,
        )

    def normalize(self, mos: float) -> float:
        """Map a MOS to 0-1 over the data set's scale; values outside the scale are clipped."""
        share = (mos - self.mos_min) / (self.mos_max - self.mos_min)
        return min(max(share, 0.0), 1.0)

    def percentile(self, mos: float) -> float:
        """Return the percentage (0-100) of training images that people rated below this MOS.

        Linear between the quantiles; a MOS that several quantiles share gets their middle.
        """
        values, first, count = np.unique(self.mos_quantiles, return_index=True, return_counts=True)
        percents = _PERCENTS[first] + (count - 1) / 2
        return float(np.interp(mos, values, percents, left=0.0, right=100.0))


def _string(parameters: Mapping[str, str], name: str) -> str:
    if name not in parameters:
        raise WrongModelError(
            f"The served model has no parameter `{name}` in its configuration "
            f"(it has: {', '.join(sorted(parameters)) or 'none'}). "
            "Serve an ensemble written by export/to_triton.py."
        )
    return parameters[name]


def _number(parameters: Mapping[str, str], name: str) -> float:
    text = _string(parameters, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _malformed(name, text, "a finite number")
    return value


def _version(parameters: Mapping[str, str]) -> int:
    text = parameters.get("version", "0")
    if not re.fullmatch("[0-9]{1,18}", text):
        raise _malformed("version", text, "a whole number")
    return int(text)


def _metrics(parameters: Mapping[str, str]) -> Mapping[str, Any]:
    metrics = _json(parameters, "metrics")
    if not isinstance(metrics, dict):
        raise _malformed("metrics", parameters["metrics"], "a JSON object")
    return metrics


def _calibration(parameters: Mapping[str, str]) -> Calibration | None:
    if not parameters.get("calibration"):
        return None
    record = _json(parameters, "calibration")
    try:
        found = Calibration(
            level=float(record["level"]),
            reach=float(record["reach"]),
            reaches={float(level): float(reach) for level, reach in record["reaches"].items()},
            errors=tuple(map(float, record["errors"])),
            threshold=float(record["familiarity"]["threshold"]),
            record=record,
        )
        numbers = (found.level, found.reach, found.threshold, *found.errors)
        usable = math.isfinite(sum(numbers)) and found.reach > 0 and found.errors
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        usable = False
    if not usable:
        expected = "what `python -m ma_agiqa calibrate` wrote"
        raise _malformed("calibration", parameters["calibration"], expected)
    return found


def _alignment(parameters: Mapping[str, str]) -> Alignment | None:
    if not parameters.get("alignment"):
        return None
    record = _json(parameters, "alignment")
    try:
        found = Alignment(record["question"], record["answer"], record.get("against"))
    except (KeyError, TypeError, AttributeError):
        found = Alignment("", "")
    texts = (found.question, found.answer, found.against or "")
    if not all(isinstance(text, str) for text in texts) or not found.question:
        expected = "a JSON object with question and answer"
        raise _malformed("alignment", parameters["alignment"], expected)
    return found


def _quantiles(parameters: Mapping[str, str]) -> tuple[float, ...]:
    values = _json(parameters, "mos_quantiles")
    try:
        quantiles = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):  # no numbers, or too large for a float
        quantiles = np.array([np.nan])
    ascending = np.isfinite(quantiles).all() and (np.diff(quantiles) >= 0).all()
    if quantiles.shape != _PERCENTS.shape or not ascending:
        expected = "a JSON list of 101 finite numbers in ascending order"
        raise _malformed("mos_quantiles", parameters["mos_quantiles"], expected)
    return tuple(quantiles.tolist())


def _json(parameters: Mapping[str, str], name: str) -> Any:
    text = _string(parameters, name)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(name, text, "JSON") from error


def _malformed(name: str, value: str, expected: str) -> WrongModelError:
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    return WrongModelError(
        f"The served model's parameter `{name}` is {shown!r}; expected {expected}. "
        "Export the model again with export/to_triton.py."
    )
