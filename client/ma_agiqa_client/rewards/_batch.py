"""Scores to rewards, and fallback rewards for images without a score."""

import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ma_agiqa_client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    ServerError,
    ServerUnavailableError,
)
from ma_agiqa_client.score import Failure, Score
from ma_agiqa_client.scorer import Scorer

TIMEOUT_S = 300.0
"""Default seconds that an image may take: a trainer's batch may wait long in the server's queue."""

_FALLS_BACK = (InvalidImageError, ServerUnavailableError, DeadlineExceededError, ServerError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rewards:
    """The rewards of several images, in their order.

    Attributes:
        scores: normalized scores in 0-1, or the fallback.
        mos: predicted mean opinion scores; None for images without a score.
        model: name of the model that answered; None if none did.
    """

    scores: tuple[float, ...]
    mos: tuple[float | None, ...]
    model: str | None

    @property
    def failed(self) -> tuple[int, ...]:
        """Indices, from 0, of the images that got the fallback."""
        return tuple(index for index, mos in enumerate(self.mos) if mos is None)


def reward_batch(
    scorer: Scorer,
    images: Iterable[Any],
    *,
    fallback: float | None = None,
    max_in_flight: int = 64,
) -> Rewards:
    """Score several images, each in its own request.

    Args:
        scorer: the connection.
        images: as `Scorer.score_many` takes them: a list, or one array of 4 dimensions.
        fallback: reward of an image that cannot be scored; None raises an error instead.
        max_in_flight: maximum number of images in flight.

    Raises:
        ClientError: an image has no score and there is no fallback for it; of the same class as
            the error of that image. The remaining images are cancelled.
        ValueError: an array has another dtype, shape or range than images have, such as latents.
        TypeError: `images` is one image.
    """
    outcomes = list[Score | Failure]()
    rewards = list[float]()
    for outcome in scorer.score_many(images, max_in_flight=max_in_flight):
        outcomes.append(outcome)
        rewards.append(_reward(outcome, fallback))
    _warn(outcomes, fallback)
    return Rewards(
        scores=tuple(rewards),
        mos=tuple(None if outcome.error else outcome.mos for outcome in outcomes),
        model=next((outcome.model for outcome in outcomes if outcome.model), None),
    )


def may_fall_back(error: ClientError, fallback: float | None) -> bool:
    """Return whether there is a fallback, and it may be used for this error."""
    return fallback is not None and isinstance(error, _FALLS_BACK)


def check_fallback(fallback: float | None) -> float | None:
    """Check the reward for images that cannot be scored.

    Raises:
        ValueError: it is not a finite number.
    """
    if fallback is not None and not math.isfinite(fallback):
        raise ValueError(f"fallback is {fallback}; expected a finite number, or None for an error.")
    return fallback


def default_urls() -> tuple[str, ...]:
    """Return the addresses in the environment variable MA_AGIQA_URL, or localhost:8001."""
    return tuple(os.environ.get("MA_AGIQA_URL", "").split()) or ("localhost:8001",)


def refuse_wrong_array(error: ClientError) -> None:
    """Refuse what no fallback should hide, because it is a mistake in the trainer's setup.

    Raises:
        ValueError: the error is that of an array of another dtype, shape or range, such as latents.
    """
    if isinstance(error, InvalidImageError) and error.wrong_array:
        raise ValueError(f"{error} Give decoded pixels, not latents.") from error


def _reward(outcome: Score | Failure, fallback: float | None) -> float:
    if not outcome.error:
        return outcome.normalized
    cause = outcome.error
    refuse_wrong_array(cause)
    if fallback is not None and may_fall_back(cause, fallback):
        return fallback
    error = type(cause)(f"Image {outcome.index} of the batch has no reward. {cause}")
    error.request_id = cause.request_id
    raise error from cause


def _warn(outcomes: list[Score | Failure], fallback: float | None) -> None:
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if errors:
        logger.warning(
            "%d of %d images get the fallback reward %s. The first error is: %s",
            len(errors),
            len(outcomes),
            fallback,
            errors[0],
        )
