"""The benchmark of the scorer: its counts and its comparisons."""

import pytest
import torch

from ma_agiqa.benchmark import scorer as scorer_benchmark
from ma_agiqa.benchmark.machine import count_operations
from ma_agiqa.benchmark.scorer import (
    measure_scorer,
    picture_deviation,
    random_scorer,
    sample_inputs,
)
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

CPU = torch.device("cpu")
SMALL = MAAGIQAConfig(
    backbone="vit_tiny_patch16_224",
    backbone_args={"embed_dim": 32, "depth": 3, "num_heads": 2},
    feature_blocks=(0, 1),
    num_transposed_attention=2,
    swin_depths=(2, 1),
    swin_window=7,
    swin_mlp_dim=48,
    semantic_dim=24,
)


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(scorer_benchmark, "_LARGE_PRODUCT", {(256, 256, 256): 1})


@pytest.fixture(scope="module")
def model():
    return random_scorer(SMALL, CPU)


def test_the_scorers_operations_at_full_size():
    with torch.device("meta"):
        model = MAAGIQA(MAAGIQAConfig()).eval()
        inputs = torch.zeros(1, 224, 224, 3, dtype=torch.uint8), *torch.zeros(2, 1, 4096)
    assert count_operations(lambda: model(*inputs))[0] / 1e9 == pytest.approx(277, abs=1)


@torch.inference_mode()
def test_random_weights_spread_the_scores(model):
    score = model(*sample_inputs(SMALL, 8, CPU)).score
    assert float(score.std()) == pytest.approx(1.0, abs=1e-3)
    assert float(score.mean()) == pytest.approx(2.5, abs=1e-3)
    view, semantic, coherence = sample_inputs(SMALL, 8, CPU)
    same = semantic[:1].expand(8, -1), coherence[:1].expand(8, -1)
    by_pictures = float(model(view, *same).score.std())
    assert picture_deviation(model, CPU) == pytest.approx(by_pictures, rel=1e-3)


def test_inputs_of_a_batch_begin_with_those_of_a_smaller_one():
    for large, small in zip(
        sample_inputs(SMALL, 5, CPU), sample_inputs(SMALL, 2, CPU), strict=True
    ):
        assert torch.equal(large[:2], small)


def test_what_is_measured_adds_up(model):
    exact, fast = (
        list(measure_scorer(model, (1, 3), dtype, rounds=2)) for dtype in (None, torch.bfloat16)
    )
    assert [row["batch"] for row in exact] == [1, 3]
    difference = "score difference from the exact arithmetic"
    assert exact[0][difference] == 0
    assert 0 < fast[0][difference] < 0.1
    assert fast[1]["GFLOP/image"] == pytest.approx(exact[0]["GFLOP/image"])
