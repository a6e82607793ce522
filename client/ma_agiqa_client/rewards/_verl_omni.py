"""The reward function of verl-omni: one image per call, many concurrent calls in an event loop."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from ma_agiqa_client.async_scorer import AsyncScorer
from ma_agiqa_client.errors import ClientError
from ma_agiqa_client.rewards._batch import (
    TIMEOUT_S,
    check_fallback,
    check_pixels,
    default_urls,
    may_fall_back,
)

_IN_FLIGHT = 64
_Key: TypeAlias = tuple[asyncio.AbstractEventLoop, tuple[str, ...]]

_connections: dict[_Key, tuple[AsyncScorer, asyncio.Semaphore]] = {}

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
            One connection is kept for each event loop, with at most 64 images in flight.
        fallback: reward of an image that cannot be scored; None raises an error instead.
        timeout_s: seconds that the image may take once it is sent.
        others: other arguments of verl-omni (data_source, ground_truth, extra_info, ...); ignored.

    Returns:
        `score`: the normalized score in 0-1, higher is better, or the fallback; and for verl-omni's
        metrics `ma_agiqa_mos`, NaN if there is no score, and `ma_agiqa_failed`, 1 if the score is
        the fallback, else 0.

    Raises:
        ClientError: the image has no score and there is no fallback for it.
        ValueError: the number of channels is not 1 or 3, there are several frames, or an argument
            is out of its range.
    """
    checked = check_fallback(fallback)
    image = _single(solution_image)
    try:
        scorer, room = _connection(default_urls() if url is None else _as_tuple(url))
        async with room:
            score = await scorer.score(image, timeout_s=timeout_s)
    except ClientError as error:
        if checked is None or not may_fall_back(error, checked):
            raise
        logger.warning("An image gets the fallback reward %s. %s", checked, error)
        return {"score": checked, "ma_agiqa_mos": math.nan, "ma_agiqa_failed": 1.0}
    return {"score": score.normalized, "ma_agiqa_mos": score.mos, "ma_agiqa_failed": 0.0}


def _as_tuple(url: str | Sequence[str]) -> tuple[str, ...]:
    return (url,) if isinstance(url, str) else tuple(url)


def _connection(urls: tuple[str, ...]) -> tuple[AsyncScorer, asyncio.Semaphore]:
    """Return the connection of this event loop; drop those of closed loops."""
    for key in [key for key in _connections if key[0].is_closed()]:
        _connections.pop(key, None)
    key = (asyncio.get_running_loop(), urls)
    if key not in _connections:
        _connections[key] = AsyncScorer(urls), asyncio.Semaphore(_IN_FLIGHT)
    return _connections[key]


def _single(image: Any) -> Any:
    """Return the image without a batch axis of length 1."""
    check_pixels(image)
    if getattr(image, "ndim", 0) < 4:
        return image
    if image.ndim > 4 or len(image) != 1:
        raise ValueError(
            f"Got an array of shape {tuple(image.shape)}; expected one image, (3, height, width) "
            "or (1, 3, height, width). MA-AGIQA scores single images, not videos."
        )
    return image[0]
