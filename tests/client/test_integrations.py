"""The examples for diffusers and ComfyUI, with stubs of what these two call and are called with."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ma_agiqa_client import InvalidImageError, Scorer
from support.scripted_server import brightness

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "client/examples/integrations"))

import comfyui_node
from diffusers_callback import ScoreSteps


@pytest.fixture
def bright(scripted):
    scripted.answer = brightness
    with Scorer(scripted.url) as scorer:
        yield scorer
    comfyui_node.connect.cache_clear()


class Pipeline:
    """The loop of a diffusers pipeline, whose latents become brighter with each step."""

    def __init__(self, steps: int) -> None:
        self.num_timesteps = steps
        self._interrupt = False
        self.vae = SimpleNamespace(
            config=SimpleNamespace(scaling_factor=0.5, shift_factor=None),
            dtype=torch.float32,
            decode=self._decode,
        )
        self.image_processor = SimpleNamespace(postprocess=self._postprocess)

    def _decode(self, latents, return_dict):
        assert not return_dict
        return (latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3),)

    def _postprocess(self, image, output_type):
        assert output_type == "pt"
        return (image / 2 + 0.5).clamp(0, 1)

    def __call__(self, callback_on_step_end):
        latents = torch.full((2, 4, 2, 2), -0.5)
        for step in range(self.num_timesteps):
            if self._interrupt:
                continue
            latents = torch.full((2, 4, 2, 2), -0.5 + (step + 1) / self.num_timesteps)
            given = callback_on_step_end(self, step, 1000 - step, {"latents": latents})
            latents = given.pop("latents", latents)
        return latents


def test_a_diffusers_pipeline_is_scored_while_it_draws(bright):
    watch = ScoreSteps(bright, every=5)
    latents = Pipeline(20)(watch)
    assert latents[0, 0, 0, 0] == 0.5  # nothing is changed
    assert [step for step, _ in watch.scores] == [5, 10, 15, 20]
    assert [mos for _, mos in watch.scores] == pytest.approx([25, 50, 75, 100], abs=0.5)


def test_a_picture_that_stays_bad_is_given_up(bright):
    watch = ScoreSteps(bright, every=5, stop_below=60.0)
    latents = Pipeline(20)(watch)
    assert [step for step, _ in watch.scores] == [5, 10]  # 25 in the first half is no reason
    assert latents[0, 0, 0, 0] == 0


def test_comfyui_gets_the_best_picture(bright, scripted):
    node = comfyui_node.NODE_CLASS_MAPPINGS["MaAgiqaScore"]
    asked = node.INPUT_TYPES()["required"]
    assert set(asked) == {"images", "url"}
    levels = torch.tensor([0.2, 0.8, 0.4])[:, None, None, None]
    images = levels.expand(3, 16, 24, 3)
    result = getattr(node(), node.FUNCTION)(images=images, url=scripted.url)
    assert len(result) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    best, mos, lines = result
    assert best.shape == (1, 16, 24, 3)
    assert np.allclose(best, 0.8)
    assert mos == pytest.approx(80, abs=0.3)
    assert lines == "0: 20.00\n1: 80.00\n2: 40.00"


def test_comfyui_shows_the_error_of_an_image(bright, scripted):
    images = torch.full((1, 8, 8, 3), float("nan"))
    with pytest.raises(InvalidImageError, match="NaN"):
        comfyui_node.ScoreImages().score(images, scripted.url)
