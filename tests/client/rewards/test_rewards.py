"""The reward callables over real gRPC to a scripted server: forms, failures, fallbacks."""

import asyncio
import inspect
import logging
import math
import re

import grpc
import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa_client import (
    InvalidImageError,
    Retry,
    Scorer,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
    rewards,
)
from ma_agiqa_client.rewards import _callables, _verl_omni
from ma_agiqa_client.rewards._batch import EXPECTED
from support.scripted_server import after_a_moment, brightness

LEVELS = (51, 0, 255, 102)  # of 255; the scripted reward is the level as a share


def level_images() -> np.ndarray:
    """NHWC uint8, one gray level each."""
    levels = np.array(LEVELS, np.uint8)[:, None, None, None]
    return np.broadcast_to(levels, (4, 6, 8, 3)).copy()


def tensor(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """NCHW in 0-1, as a diffusion pipeline gives it with output_type="pt"."""
    return torch.from_numpy(level_images()).permute(0, 3, 1, 2).to(dtype) / 255


@pytest.fixture
def bright(scripted, monkeypatch):
    """A server of brightness, at the address in the environment."""
    scripted.answer = brightness
    monkeypatch.setenv("MA_AGIQA_URL", scripted.url)
    yield scripted
    # Kept connections would keep trying the port, and harm a later server that gets the same one.
    _callables._shared_scorer((scripted.url,)).close()
    _callables._shared_scorer.cache_clear()
    _verl_omni._shared_scorer.cache_clear()


@pytest.fixture
def gone(no_server):
    """A scorer whose server is not available."""
    with Scorer(no_server, timeout_s=5, retry=Retry(connect_budget_s=0)) as scorer:
        yield scorer


def test_the_public_names():
    assert rewards.__all__ == [
        "Guard",
        "compute_score",
        "ddpo_trainer_reward",
        "default_urls",
        "ma_agiqa_score",
    ]


FORMS = {
    "NCHW float32": tensor,
    "NCHW float16": lambda: tensor(torch.float16),
    "NCHW bfloat16": lambda: tensor(torch.bfloat16),
    "NCHW with gradient": lambda: tensor().requires_grad_(),
    "NCHW uint8 tensor": lambda: torch.from_numpy(level_images()).permute(0, 3, 1, 2),
    "NHWC uint8": level_images,
    "NHWC float32": lambda: (level_images() / 255).astype(np.float32),
    "NCHW float array": lambda: tensor().numpy(),
    "list of Pillow": lambda: [Image.fromarray(image) for image in level_images()],
    "list of arrays": lambda: list(level_images()),
    "list of CHW tensors": lambda: list(tensor()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("bright")
def test_every_form_of_a_batch_gives_the_same_rewards(form):
    scores, info = rewards.ma_agiqa_score("cpu")(FORMS[form](), ["p"] * 4, [{}] * 4)
    assert scores.dtype == info["mos"].dtype == np.float32
    assert scores == pytest.approx(np.array(LEVELS) / 255, abs=1 / 255)
    assert info["mos"] == pytest.approx(100 * scores, rel=1e-6)
    assert info["failed"].tolist() == [False] * 4


@pytest.mark.usefixtures("bright")
def test_the_default_address_is_that_of_the_environment(monkeypatch):
    monkeypatch.delenv("MA_AGIQA_URL")
    assert rewards.default_urls() == ("localhost:8001",)
    monkeypatch.setenv("MA_AGIQA_URL", "one:8001 two:8001")
    assert rewards.default_urls() == ("one:8001", "two:8001")


@pytest.mark.usefixtures("bright")
def test_an_image_that_fails_is_an_error():
    bad = [Image.fromarray(level_images()[0]), b"no image"]
    with pytest.raises(InvalidImageError, match=r"Image 1 of the batch.*Not an image") as caught:
        rewards.ma_agiqa_score()(bad, None, None)
    assert caught.value.request_id


@pytest.mark.usefixtures("bright")
def test_the_fallback_is_used_for_an_image_that_fails_and_is_logged(caplog):
    images = tensor()
    images[1, 0, 0, 0] = math.nan  # what a generator that has diverged makes
    with caplog.at_level(logging.WARNING):
        scores, info = rewards.ma_agiqa_score(fallback=-1.0)(images, None, None)
    assert scores[1] == -1
    assert np.isnan(info["mos"]).tolist() == info["failed"].tolist() == [False, True, False, False]
    assert scores[[0, 2, 3]] == pytest.approx(np.array(LEVELS)[[0, 2, 3]] / 255, abs=1e-6)
    assert "1 of 4 images get the fallback reward -1.0" in caplog.text
    assert "NaN" in caplog.text


def test_a_server_that_is_gone_is_an_error(gone):
    with pytest.raises(ServerUnavailableError, match="Image 0 of the batch"):
        rewards.ma_agiqa_score(scorer=gone)(tensor(), None, None)


def test_the_fallback_is_used_for_a_server_that_is_gone(gone):
    scores, info = rewards.ma_agiqa_score(scorer=gone, fallback=0.25)(tensor(), None, None)
    assert scores.tolist() == [0.25] * 4
    assert info["failed"].all()


def test_no_fallback_hides_the_wrong_model(bright):
    del bright.card["mos_quantiles"]
    with pytest.raises(WrongModelError):
        rewards.ma_agiqa_score(fallback=0.5)(tensor(), None, None)


WRONG = {
    "latents": torch.zeros(4, 16, 64, 64),
    "small latents": torch.zeros(2, 4, 32, 32),
    "values in -1..1": tensor() * 2 - 1,
    "channels in the middle": tensor().movedim(1, 2),
    "integers": (tensor() * 255).int(),
    "no images": torch.zeros(0, 3, 8, 8),
    "an empty list": [],
    "one image": tensor()[0],
    "videos": torch.zeros(2, 5, 3, 8, 8),
    "one of several": [*level_images(), np.full((8, 8, 3), -0.5, np.float32)],
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.usefixtures("bright")
def test_no_fallback_hides_what_is_no_picture(kind):
    with pytest.raises(ValueError, match="not latents") as caught:
        rewards.ma_agiqa_score(fallback=0.5)(WRONG[kind], None, None)
    assert str(caught.value).endswith(EXPECTED)


@pytest.mark.parametrize("fallback", [math.nan, math.inf])
@pytest.mark.parametrize("make", [rewards.ma_agiqa_score, rewards.ddpo_trainer_reward])
def test_a_fallback_is_a_number(make, fallback):
    with pytest.raises(ValueError, match="fallback"):
        make(fallback=fallback)


@pytest.mark.usefixtures("bright")
def test_trl_gets_a_tensor():
    scores, meta = rewards.ddpo_trainer_reward()(tensor(), ("p",) * 4, ({},) * 4)
    assert isinstance(scores, torch.Tensor)
    assert scores.dtype == torch.float32
    assert scores.numpy() == pytest.approx(np.array(LEVELS) / 255, abs=1e-6)
    assert set(meta) == {"mos", "failed"}


def verl(image, **others):
    """One call as verl-omni's managers make it: by keyword, with what else they have."""
    return rewards.compute_score(
        data_source="prompts", solution_image=image, ground_truth="a cat", extra_info={}, **others
    )


def test_verl_omni_sees_a_coroutine_function():
    assert inspect.iscoroutinefunction(rewards.compute_score)


@pytest.mark.parametrize("batch_axis", [False, True])
@pytest.mark.usefixtures("bright")
def test_verl_omni_scores_one_image(batch_axis):
    image = torch.from_numpy(level_images())[0].permute(2, 0, 1)
    result = asyncio.run(verl(image[None] if batch_axis else image))
    assert result == {"score": 0.2, "ma_agiqa_mos": 20.0, "ma_agiqa_failed": 0.0}


def test_verl_omni_sends_many_at_once_over_one_connection(bright):
    bright.answer = after_a_moment(brightness)

    async def rollout():
        images = torch.from_numpy(level_images()).permute(0, 3, 1, 2)
        return await asyncio.gather(*(verl(images[i % 4], url=bright.url) for i in range(200)))

    for _ in range(2):  # a second event loop makes a connection of its own
        scores = [result["score"] for result in asyncio.run(rollout())]
        assert scores == pytest.approx([LEVELS[i % 4] / 255 for i in range(200)], abs=1e-6)
    assert len(bright.peers) == 2
    assert 1 < bright.most_in_flight <= 64


def test_verl_omni_gets_an_error_or_the_fallback(bright, caplog):
    bright.answer = lambda image, context: context.abort(grpc.StatusCode.INTERNAL, "Broken.")
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ServerError, match="Broken"):
        asyncio.run(verl(image))
    result = asyncio.run(verl(image, fallback=0.1))
    assert (result["score"], result["ma_agiqa_failed"]) == (0.1, 1)
    assert math.isnan(result["ma_agiqa_mos"])
    assert "fallback reward 0.1" in caplog.text


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (1, 1, 3, 8, 8), (16, 8, 8), (1, 16, 8, 8)])
@pytest.mark.usefixtures("bright")
def test_verl_omni_videos_and_latents_are_errors(shape):
    with pytest.raises(ValueError, match=re.escape(EXPECTED)):
        asyncio.run(verl(torch.zeros(shape, dtype=torch.uint8), fallback=0.1))
