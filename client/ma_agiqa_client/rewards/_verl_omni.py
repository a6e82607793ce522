"""The reward function of verl-omni: one image per call, many concurrent calls in an event loop."""

import asyncio
import logging
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from ma_agiqa_client._wire.aio import PerLoop
from ma_agiqa_client.async_scorer import AsyncScorer
from ma_agiqa_client.connection import check_urls
from ma_agiqa_client.errors import ClientError
from ma_agiqa_client.rewards._batch import (
    TIMEOUT_S,
    WrongInputError,
    check_fallback,
    default_urls,
    may_fall_back,
    refuse_wrong_array,
)

_IN_FLIGHT = 64

logger = logging.getLogger(__name__)


async def compute_score(
    solution_image: Any,
    *,
    url: str | Sequence[str] | None = None,
    fallback: float | None = None,
    timeout_s: float = TIMEOUT_S,
    **others: Any,
) -> dict[str, float]:
    """Score one image of a rollout.

    verl-omni finds this function by `path=pkg://ma_agiqa_client.rewards` and `name=compute_score`,
    and passes the other keys of that entry, such as `url`, as arguments. Set `required=true` there:
    without it, verl-omni's MultiVisualRewardManager turns every error into a score of 0.

    Args:
        solution_image: (3, height, width) or (1, 3, height, width), uint8 in 0-255 or floating
            point in 0-1; a torch tensor or an array. Or any other image `AsyncScorer.score` takes.
        url: one or several gRPC addresses; by default those in MA_AGIQA_URL, or localhost:8001.
            One connection is kept for each event loop; at most 64 images of a loop are in flight.
        fallback: reward of an image that cannot be scored; None raises an error instead.
        timeout_s: seconds that the image may take once it is sent.
        others: other arguments of verl-omni (data_source, ground_truth, extra_info, ...); ignored.

    Returns:
        `score`: the normalized score in 0-1, higher is better, or the fallback; and for verl-omni's
        metrics `ma_agiqa_mos`, NaN if there is no score, and `ma_agiqa_failed`, 1 if the score is
        the fallback, else 0.

    Raises:
        ClientError: the image has no score and there is no fallback for it.
        ValueError: the array has another dtype, shape or range than an image, or several frames;
            or an argument is out of its range.
    """
    checked = check_fallback(fallback)
    scorer = _shared_scorer(default_urls() if url is None else check_urls(url))
    score = scorer.score(_single(solution_image), timeout_s=timeout_s)  # reads the image
    try:
        async with _room.get():
            given = await score
    except ClientError as error:
        refuse_wrong_array(error)
        if checked is None or not may_fall_back(error, checked):
            raise
        logger.warning("An image gets the fallback reward %s. %s", checked, error)
        return {"score": checked, "ma_agiqa_mos": math.nan, "ma_agiqa_failed": 1.0}
    finally:
        score.close()
    return {"score": given.normalized, "ma_agiqa_mos": given.mos, "ma_agiqa_failed": 0.0}


_room = PerLoop(lambda: asyncio.Semaphore(_IN_FLIGHT))

_shared_scorer = cache(AsyncScorer)
"""Makes the connection to some servers once; it is kept until the process ends."""


def _single(image: Any) -> Any:
    """Return the image without a batch axis of length 1."""
    if getattr(image, "ndim", 0) < 4:
        return image
    if image.ndim > 4 or len(image) != 1:
        raise WrongInputError(f"Got an array of shape {tuple(image.shape)} in place of one image.")
    return image[0]
