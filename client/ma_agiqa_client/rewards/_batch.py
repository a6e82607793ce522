"""Scores to rewards, and what is done where there is no score."""

import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ma_agiqa_client._wire.arrays import is_array
from ma_agiqa_client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    ServerError,
    ServerUnavailableError,
)
from ma_agiqa_client.score import Score
from ma_agiqa_client.scorer import Scorer

__all__ = [
    "TIMEOUT_S",
    "Rewards",
    "check_fallback",
    "check_pixels",
    "default_urls",
    "may_fall_back",
    "reward_batch",
]

TIMEOUT_S = 300.0
"""Seconds an image may take where nothing else is said: a batch of a trainer may queue for long."""

_FALLS_BACK = (InvalidImageError, ServerUnavailableError, DeadlineExceededError, ServerError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rewards:
    """The rewards of several images, in their order.

    Attributes:
        scores: normalized scores in 0-1, or the fallback.
        mos: predicted mean opinion scores; None where there is none.
        model: name of the model that answered; None if none did.
    """

    scores: tuple[float, ...]
    mos: tuple[float | None, ...]
    model: str | None

    @property
    def failed(self) -> tuple[int, ...]:
        """Places, from 0, of the images that got the fallback."""
        return tuple(index for index, mos in enumerate(self.mos) if mos is None)


def reward_batch(
    scorer: Scorer,
    images: Iterable[Any],
    *,
    fallback: float | None = None,
    max_in_flight: int = 64,
) -> Rewards:
    """Score several images, each in a request of its own.

    Args:
        scorer: the connection.
        images: as `Scorer.score_many` takes them: a list, or one array of 4 dimensions.
        fallback: reward of an image that cannot be scored; None makes that an error.
        max_in_flight: images under way at once.

    Raises:
        ClientError: an image has no score and there is no fallback for it; of the same class as
            the error of that image. The remaining images are given up.
        ValueError: an array that does not hold pixels.
        TypeError: `images` is one image.
    """
    check_pixels(images)
    scores = list[Score]()
    rewards = list[float]()
    for score in scorer.score_many(images, max_in_flight=max_in_flight):
        scores.append(score)
        rewards.append(_reward(score, fallback))
    _warn(scores, fallback)
    return Rewards(
        scores=tuple(rewards),
        mos=tuple(score.mos for score in scores),
        model=next((score.model for score in scores if score.model), None),
    )


def may_fall_back(error: ClientError, fallback: float | None) -> bool:
    """Whether there is a fallback, and it stands for this error."""
    return fallback is not None and isinstance(error, _FALLS_BACK)


def check_fallback(fallback: float | None) -> float | None:
    """Check a reward for images that cannot be scored.

    Raises:
        ValueError: it is not a finite number.
    """
    if fallback is not None and not math.isfinite(fallback):
        raise ValueError(f"fallback is {fallback}; expected a finite number, or None for an error.")
    return fallback


def check_pixels(images: Any) -> None:
    """Check that an array or a batch has 1 or 3 channels, first or last; other things pass.

    Latents in the place of pixels are a mistake of the set-up, which no fallback should hide.

    Raises:
        ValueError: neither place has.
    """
    if not is_array(images) or len(images.shape) < 3:
        return
    if not {images.shape[-3], images.shape[-1]} & {1, 3}:
        raise ValueError(
            f"Got images of shape {tuple(images.shape)}; expected 3 channels, before or after "
            "height and width. Give decoded pixels, not latents."
        )


def default_urls() -> tuple[str, ...]:
    """The servers that the environment variable MA_AGIQA_URL names, or localhost:8001."""
    return tuple(os.environ.get("MA_AGIQA_URL", "").split()) or ("localhost:8001",)


def _reward(score: Score, fallback: float | None) -> float:
    if score.normalized is not None:
        return score.normalized
    cause = score.error or ServerError("The server gave neither a score nor an error.")
    if fallback is not None and may_fall_back(cause, fallback):
        return fallback
    error = type(cause)(f"Image {score.index} of the batch has no reward. {cause}")
    error.request_id = cause.request_id
    raise error from cause


def _warn(scores: list[Score], fallback: float | None) -> None:
    errors = [score.error for score in scores if score.error]
    if errors:
        logger.warning(
            "%d of %d images get the fallback reward %s. The first says: %s",
            len(errors),
            len(scores),
            fallback,
            errors[0],
        )
