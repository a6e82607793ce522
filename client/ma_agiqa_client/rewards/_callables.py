"""Reward functions for trainers that call `fn(images, prompts, metadata)`, on any thread."""

import atexit
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ma_agiqa_client.rewards._batch import (
    TIMEOUT_S,
    Rewards,
    check_fallback,
    default_urls,
    reward_batch,
)
from ma_agiqa_client.scorer import Scorer

Info: TypeAlias = dict[str, npt.NDArray[Any]]
RewardFunction: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Info]]


def ma_agiqa_score(
    device: Any = None, *, scorer: Scorer | None = None, fallback: float | None = None
) -> RewardFunction:
    """Make the reward function of ddpo-pytorch and flow_grpo.

    It may be called from several threads, as both trainers do. Its arguments are

    - images: (n, 3, height, width) floating point in 0-1 or uint8, such as a torch tensor on any
      device; (n, height, width, 3) uint8 or floating point; or a list of images that `Scorer`
      takes, such as Pillow images. No images, or arrays of another dtype, shape or range, are a
      `ValueError`, whatever the fallback: they are a mistake in the trainer's setup.
    - prompts, metadata: ignored.

    It returns the scores, float32 (n,) in 0-1, higher is better, and a dictionary with `mos`,
    float32 (n,), NaN for images without a score, and `failed`, bool (n,), true for images that got
    the fallback.

    Args:
        device: ignored, because the server computes. flow_grpo passes it to every function that has
            an argument of this name.
        scorer: the connection. By default to the servers in MA_AGIQA_URL, or localhost:8001, with
            300 s for each image; all reward functions of this process share it.
        fallback: reward of an image that cannot be scored; None raises an error instead.

    Raises:
        ValueError: `fallback` is not finite, or MA_AGIQA_URL contains something else than
            addresses.
    """
    reward = _rewarder(scorer, fallback)

    def score(images: Any, prompts: Any, metadata: Any) -> tuple[npt.NDArray[np.float32], Info]:
        scores, rewards = reward(images)
        return np.array(scores, np.float32), _info(rewards)

    return score


def ddpo_trainer_reward(
    *, scorer: Scorer | None = None, fallback: float | None = None
) -> RewardFunction:
    """Make the reward function of the DDPOTrainer in earlier versions of TRL.

    As `ma_agiqa_score`, but the scores are a torch tensor, float32 (n,), on the CPU. Imports torch
    when it is called. The trainer's `async_reward_computation` has to be off, as it is by default:
    it calls `.result()` on the scores, which ordinary reward functions do not support.

    Args:
        scorer: as in `ma_agiqa_score`.
        fallback: as in `ma_agiqa_score`.

    Raises:
        ValueError: as in `ma_agiqa_score`.
    """
    reward = _rewarder(scorer, fallback)

    def score(images: Any, prompts: Any, metadata: Any) -> tuple[Any, Info]:
        import torch  # installed wherever TRL is

        scores, rewards = reward(images)
        return torch.tensor(scores, dtype=torch.float32), _info(rewards)

    return score


def _rewarder(
    scorer: Scorer | None, fallback: float | None
) -> Callable[[Any], tuple[list[float], Rewards]]:
    connection = scorer or _shared_scorer(default_urls())
    checked = check_fallback(fallback)
    return lambda images: reward_batch(connection, images, fallback=checked)


@cache
def _shared_scorer(urls: tuple[str, ...]) -> Scorer:
    """Make the connection that all reward functions share; it is kept until the process ends."""
    scorer = Scorer(urls, timeout_s=TIMEOUT_S)
    atexit.register(scorer.close)  # later, gRPC is gone, and its clients complain
    return scorer


def _info(rewards: Rewards) -> Info:
    mos = [np.nan if value is None else value for value in rewards.mos]
    failed = [value is None for value in rewards.mos]
    return {"mos": np.array(mos, np.float32), "failed": np.array(failed, bool)}
