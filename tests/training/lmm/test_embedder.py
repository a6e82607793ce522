"""Prompt embeddings against the official code, and the fast path against the plain one."""

import pytest
import torch

from ma_agiqa.lmm.embedder import CLIP_MEAN, CLIP_STD, PROMPTS, PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.sources import build_embedder


@pytest.fixture(scope="module")
def embedder(tiny_owl) -> PromptEmbedder:
    model = MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"])
    return PromptEmbedder(model, tiny_owl["input_ids"])


def test_token_ids_are_those_of_the_official_tokenizer(tiny_owl):
    assert {name: list(ids) for name, ids in PROMPTS.items()} == tiny_owl["input_ids"]


@pytest.mark.parametrize("path", ["__call__", "full_sequence"])
def test_features_equal_the_official_code(embedder, tiny_owl, path):
    features = getattr(embedder, path)(tiny_owl["reference"]["pixel_values"])
    assert set(features) == {"semantic", "coherence"}
    for prompt, feature in features.items():
        assert feature.dtype == torch.float32
        torch.testing.assert_close(feature, tiny_owl["reference"][prompt], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "prompts",
    [
        {"only": [5, 6, -200, 7]},
        {"short": [1, 5, -200, 7], "long": [1, 2, 3, 4, 5, -200, 7, 8, 9, 10]},
        {"a": [1, 2, 3, -200, 4], "b": [1, -200, 2, 3, 4, 5], "c": [9, 8, -200, 1, 2]},
    ],
)
def test_prompts_of_any_lengths_share_a_batch(embedder, tiny_owl, prompts):
    embedder = PromptEmbedder(embedder.model, prompts)
    pixels = tiny_owl["reference"]["pixel_values"]
    plain = embedder.full_sequence(pixels)
    for name, feature in embedder(pixels).items():
        torch.testing.assert_close(feature, plain[name], atol=1e-5, rtol=0)


def test_uint8_views_are_normalized_like_clip(embedder):
    view = torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8)
    pixels = (view.float() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    from_view, from_pixels = embedder(view), embedder(pixels.permute(0, 3, 1, 2))
    for prompt, feature in from_view.items():
        torch.testing.assert_close(feature, from_pixels[prompt], atol=0, rtol=0)


def test_the_demo_is_the_same_on_every_machine_and_looks_at_the_image():
    embedder = build_embedder("demo")
    size = embedder.image_size
    ramp = torch.arange(size, dtype=torch.uint8).expand(2, size, size)
    views = torch.stack([ramp, ramp.flip(0), ramp.transpose(1, 2)], dim=-1).clone()
    views[1] = 255 - views[1].flip(1)
    features = embedder(views)
    expected = {"semantic": 4.2267194, "coherence": 4.1957536}
    for prompt, feature in features.items():
        assert feature[0].norm().item() == pytest.approx(expected[prompt], rel=1e-4)
        assert (feature[0] - feature[1]).abs().max() > 0.05
