"""The fast scorer is the function of the exact one, at each type, whatever the batch."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from ma_agiqa.checkpoints.official import load_official
from ma_agiqa.networks import fast_maniqa
from ma_agiqa.networks.fast_maniqa import (
    FastMANIQA,
    _PointwiseLinear,
    _TransposedAttention,
    accelerate,
)
from ma_agiqa.networks.maniqa import TransposedAttention
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig
from support.reference import GOLDEN, official_tensors

SHIFTED = MAAGIQAConfig(  # windows divide the grid of 14, and the second block shifts them
    backbone="vit_tiny_patch16_224",
    backbone_args={"embed_dim": 32, "depth": 4, "num_heads": 2},
    feature_blocks=(0, 2),
    num_transposed_attention=2,
    swin_depths=(3, 2),
    swin_window=7,
    swin_mlp_dim=48,
    semantic_dim=24,
)
PADDED = MAAGIQAConfig(**{**SHIFTED.__dict__, "swin_window": 4})
# Of a score on the scale 0-5: from the exact arithmetic; from the same image in another batch.
TOLERANCES = {
    torch.float32: (1e-5, 1e-5),
    torch.bfloat16: (1e-2, 5e-3),
    torch.float16: (2e-3, 1e-3),
}


def scorer(config: MAAGIQAConfig = SHIFTED) -> MAAGIQA:
    """Random weights of which every one matters, with scores that differ between images."""
    torch.manual_seed(0)
    model = MAAGIQA(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and parameter.dim() == 1:
                parameter.normal_(std=0.1)
            elif "relative_position" in name:
                parameter.normal_()
        model.maniqa.score_head[3].bias.fill_(1.0)
    return model


def batch(config: MAAGIQAConfig, images: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    view = torch.randint(0, 256, (images, 224, 224, 3), generator=generator, dtype=torch.uint8)
    return view, *torch.randn(2, images, config.semantic_dim, generator=generator)


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


@pytest.mark.parametrize("config", [SHIFTED, PADDED], ids=["windows divide", "padded"])
@torch.inference_mode()
def test_in_float64_it_is_the_same_function(config):
    model = scorer(config).double()
    view, semantic, coherence = batch(config, 3)
    fast = accelerate(model, torch.float64)
    inputs = view, semantic.double(), coherence.double()
    for exact, other in zip(model(*inputs), fast(*inputs), strict=True):
        assert exact.std() > 0
        torch.testing.assert_close(other, exact, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("gpu", [True, False], ids=["for a GPU", "for a CPU"])
@torch.inference_mode()
def test_rounding_stays_within_the_tolerance_of_its_type(dtype, gpu):
    model = scorer()
    inputs = batch(SHIFTED, 4)
    exact, fast = model(*inputs), accelerate(model, dtype, gpu)(*inputs)
    assert {part.dtype for part in fast} == {torch.float32}
    assert largest(fast.score - exact.score) <= TOLERANCES[dtype][0]
    if dtype != torch.float32:
        assert largest(fast.patch_weight - exact.patch_weight) > 1e-6  # it did compute in dtype


@pytest.mark.parametrize("dtype", [None, *TOLERANCES], ids=str)
@torch.inference_mode()
def test_an_image_scores_the_same_whatever_it_is_batched_with(dtype):
    model = scorer() if dtype is None else accelerate(scorer(), dtype)
    inputs = batch(SHIFTED, 8)
    limit = TOLERANCES[dtype or torch.float32][1]
    alone = torch.cat([model(*(part[i : i + 1] for part in inputs)).score for i in range(8)])
    assert largest(alone - alone[0]) > 10 * limit  # the images do differ
    for first, last in ((0, 8), (0, 3), (3, 8), (5, 7)):
        together = model(*(part[first:last] for part in inputs)).score
        assert largest(together - alone[first:last]) <= limit
    backwards = model(*(part.flip(0) for part in inputs)).score.flip(0)
    assert largest(backwards - alone) <= limit


@torch.inference_mode()
def test_the_exact_model_is_left_as_it_was():
    model = scorer()
    inputs = batch(SHIFTED, 2)
    before = model(*inputs)
    fast = accelerate(model, torch.bfloat16)
    fast(*inputs)
    assert isinstance(fast.maniqa, FastMANIQA)
    assert fast.fusion is model.fusion
    for old, new in zip(before, model(*inputs), strict=True):
        assert torch.equal(old, new)


@torch.inference_mode()
def test_merged_projections_keep_every_bias():
    torch.manual_seed(0)
    exact = TransposedAttention(16, dropout=0.0).double()
    for parameter in exact.parameters():
        nn.init.normal_(parameter)
    channels = torch.randn(2, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(
        _TransposedAttention(exact, torch.float64)(channels), exact(channels), atol=1e-11, rtol=0
    )


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (2, 3, 7), (2, 1, 3, 7)], ids=str)
@torch.inference_mode()
def test_a_linear_layer_as_a_convolution(shape):
    torch.manual_seed(0)
    linear = nn.Linear(7, 5).double()
    inputs = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(_PointwiseLinear(linear)(inputs), linear(inputs))


@pytest.mark.parametrize("gpu", [True, False], ids=["for a GPU", "for a CPU"])
@torch.inference_mode()
def test_large_linear_layers_are_convolutions_on_a_cpu(gpu, monkeypatch):
    monkeypatch.setattr(fast_maniqa, "_LARGE_WEIGHTS", 1)
    model = scorer()
    fast = accelerate(model, torch.float32, gpu)
    kinds = {type(part) for part in fast.maniqa.stage1.modules()}
    assert (nn.Linear in kinds, _PointwiseLinear in kinds) == (gpu, not gpu)
    for images in (1, 3):
        inputs = batch(SHIFTED, images)
        for exact, other in zip(model(*inputs), torch.jit.script(fast)(*inputs), strict=True):
            torch.testing.assert_close(other, exact, atol=1e-5, rtol=0)


def test_a_scorer_without_quality_has_nothing_to_speed_up():
    model = MAAGIQA(MAAGIQAConfig(**{**SHIFTED.__dict__, "inputs": ("semantic",)})).eval()
    inputs = batch(SHIFTED, 2)
    assert torch.equal(accelerate(model, torch.bfloat16)(*inputs).score, model(*inputs).score)


@pytest.mark.slow
@torch.inference_mode()
def test_full_size_in_float64_equals_the_authors_code():
    """Their weights by rule amplify rounding, so only float64 shows that the function is theirs."""
    shapes = json.loads((GOLDEN / "ma_agiqa_full_parameters.json").read_text())
    fast = accelerate(load_official(official_tensors(shapes)).double(), torch.float64)
    with np.load(GOLDEN / "ma_agiqa_full.npz") as arrays:
        names = ("image_rgb_uint8", "semantic", "coherence")
        view, semantic, coherence = (torch.from_numpy(arrays[name][:1]) for name in names)
    score = fast(view, semantic.double(), coherence.double()).score
    with np.load(GOLDEN / "ma_agiqa_full_float64.npz") as expected:
        assert float(score) == pytest.approx(float(expected["score"][0]), rel=1e-8)
