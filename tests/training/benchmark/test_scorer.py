"""The benchmark of the scorer: its counts, its comparisons and what it prints."""

import re
import sys

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from ma_agiqa.benchmark import scorer as scorer_benchmark
from ma_agiqa.benchmark.machine import GemmShape
from ma_agiqa.benchmark.scorer import (
    Official,
    measure_scorer,
    picture_deviation,
    random_scorer,
    sample_inputs,
    scorer_flop,
)
from ma_agiqa.commands.benchmark import main
from ma_agiqa.errors import ConfigError
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

# Stands for a checkout of the authors' code: a model of theirs that knows what it was asked.
STAND_IN = """
import torch
class MA_AGIQA(torch.nn.Module):
    def __init__(self, embed_dim):
        super().__init__()
        print("built")  # what their code prints must not reach the answers
        self.output_fc = torch.nn.Linear(196, 1)
    def forward(self, x, tensor1, tensor2):
        assert x.shape[1:] == (3, 224, 224) and x.min() >= -1 and x.max() <= 1
        return self.output_fc.bias.cuda().expand(len(x), 1) + tensor1.mean() * 0
"""


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(scorer_benchmark, "_LARGE_PRODUCT", GemmShape(256, 256, 256, 1))


@pytest.fixture(scope="module")
def model():
    return random_scorer(SMALL, CPU)


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "MA_AGIQA.py").write_text(STAND_IN)
    (tmp_path / "timm.py").write_text("create_model = None")
    return tmp_path


@torch.inference_mode()
def test_the_formula_counts_what_runs(model):
    with FlopCounterMode(display=False) as counter:
        model(*sample_inputs(SMALL, 1, CPU))
    # Each patch is summed with its weight by broadcasting, which the counter does not see.
    assert counter.get_total_flops() == pytest.approx(scorer_flop(model), rel=1e-3)


def test_the_formula_at_full_size():
    with torch.device("meta"):
        model = MAAGIQA(MAAGIQAConfig())
    assert scorer_flop(model) / 1e9 == pytest.approx(277, abs=1)


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
        list(measure_scorer(model, (1, 3), dtype, CPU, rounds=2))
        for dtype in (None, torch.bfloat16)
    )
    assert [speed.batch for speed in exact] == [1, 3]
    assert exact[0].score_difference == 0
    assert 0 < fast[0].score_difference < 0.1
    speed = fast[1]
    assert speed.flop_per_s == pytest.approx(speed.flop_per_image / speed.seconds_per_image)
    assert speed.gemm_share == pytest.approx(speed.flop_per_s / speed.gemm_flop_per_s)
    assert speed.peak_memory_bytes > 2**20
    assert speed.official_seconds_per_image is None


def test_the_other_code_gets_the_same_weights_and_inputs(model, checkout):
    official = Official(checkout, sys.executable)
    (speed,) = measure_scorer(model, (2,), torch.float32, CPU, rounds=1, official=official)
    assert speed.official_seconds_per_image > 0
    with torch.inference_mode():
        score = model(*sample_inputs(SMALL, 2, CPU)).score
        expected = float((score - model.fusion.regression.bias).abs().max())
    assert speed.official_difference == pytest.approx(expected, abs=1e-4)


def test_code_that_does_not_run_is_explained(model, checkout, tmp_path):
    def start(folder, python=sys.executable):
        return list(
            measure_scorer(model, (1,), None, CPU, rounds=1, official=Official(folder, python))
        )

    with pytest.raises(ConfigError, match=r"there is no models/MA_AGIQA\.py"):
        start(tmp_path / "models")
    with pytest.raises(ConfigError, match="No such file"):
        start(checkout, str(tmp_path / "no_python"))
    (checkout / "models" / "MA_AGIQA.py").write_text("import a_missing_package")
    with pytest.raises(ConfigError, match="No module named 'a_missing_package'"):
        start(checkout)


def test_the_command_states_every_number():
    arguments = ["scorer", "--preset", "demo", "--dtype", "bf16", "--batch", "1", "2"]
    done = CliRunner().invoke(main, [*arguments, "--rounds", "1"])
    assert done.exit_code == 0, done.output
    assert re.findall(r"^batch (\d+)$", done.stdout, re.MULTILINE) == ["1", "2"]
    assert len(re.findall(r"time +[\d.]+ s/image, [\d.]+ images/s", done.stdout)) == 2
    assert re.search(r"work +[\d.]+ GFLOP/image, [\d.]+ GFLOP/s: \d+% of the [\d.]+", done.stdout)
    assert re.search(r"memory +[\d.]+ GiB", done.stdout)
    assert re.search(r"scores +differ by at most [\d.e-]+ from the exact", done.stdout)


def test_weights_are_asked_for():
    done = CliRunner().invoke(main, ["scorer", "--preset", "paper"])
    assert done.exit_code == 1
    assert "--random-weights" in done.stderr
