"""The scorer against the authors' code at full size, its variants, and TorchScript."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ma_agiqa.checkpoints.official import load_official
from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.evaluate.ablation import VARIANTS
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.fusion import AdaptiveFusion
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig, ScorerOutput
from ma_agiqa.settings import from_mapping, to_mapping
from support.reference import GOLDEN, official_tensors

SMALL = MAAGIQAConfig(
    backbone="vit_tiny_patch16_224",
    backbone_args={"embed_dim": 32, "depth": 3, "num_heads": 2},
    feature_blocks=(1, 2),
    swin_window=7,
    swin_mlp_dim=32,
    semantic_dim=24,
)


@pytest.fixture(scope="module")
def official_state() -> dict[str, torch.Tensor]:
    shapes = json.loads((GOLDEN / "ma_agiqa_full_parameters.json").read_text())
    return official_tensors(shapes)


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, ...]:
    with np.load(GOLDEN / "ma_agiqa_full.npz") as arrays:
        names = ("image_rgb_uint8", "semantic", "coherence")
        return tuple(torch.from_numpy(arrays[name]) for name in names)


def worst_relative_difference(output: ScorerOutput, file: Path) -> float:
    """Largest difference over the outputs, relative to each output's largest value."""
    with np.load(file) as expected:
        return max(
            float(np.abs(value.numpy().reshape(expected[name].shape) - expected[name]).max())
            / float(np.abs(expected[name]).max())
            for name, value in output._asdict().items()
        )


@pytest.mark.slow
@torch.inference_mode()
def test_full_size_equals_the_authors_code(official_state, inputs):
    model = load_official(official_state)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as the reference: these weights amplify the order of additions
    try:
        output = model(*inputs)
    finally:
        torch.set_num_threads(threads)
    assert worst_relative_difference(output, GOLDEN / "ma_agiqa_full.npz") < 1e-4


@pytest.mark.slow
@torch.inference_mode()
def test_full_size_in_float64_equals_the_authors_code(official_state, inputs):
    view, semantic, coherence = inputs
    output = load_official(official_state).double()(view, semantic.double(), coherence.double())
    assert worst_relative_difference(output, GOLDEN / "ma_agiqa_full_float64.npz") < 1e-8


def test_checkpoint_file_with_tables_and_dead_layers(tmp_path, official_state):
    tables = {
        "swintransformer1.layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16),
        "swintransformer2.layers.1.blocks.1.attn_mask": torch.zeros(49, 16, 16),
    }
    path = tmp_path / "AGIQA_3k.pt"
    torch.save({**official_state, **tables}, path)
    model = load_official(path)
    path.unlink()
    assert torch.equal(model.fusion.gate.weight, official_state["gating.weight"])
    assert len(model.maniqa.backbone.vit.blocks) == 10
    assert not model.training


def test_checkpoints_that_do_not_fit_are_explained(official_state):
    surplus = {**official_state, "fc_new.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"the authors' model does not: fc_new\.weight"):
        load_official(surplus)
    missing = {k: v for k, v in official_state.items() if k != "gating.bias"}
    with pytest.raises(CheckpointError, match=r"missing: fusion\.gate\.bias"):
        load_official(missing)
    reshaped = {**official_state, "gating.weight": torch.zeros(3, 7)}
    with pytest.raises(CheckpointError, match=r"gate\.weight \(3, 7\) instead of \(3, 2352\)"):
        load_official(reshaped)
    old = {k: v for k, v in official_state.items() if "_a2." not in k and "_b2." not in k}
    with pytest.raises(CheckpointError, match="before 2024-09-28"):
        load_official(old)


def test_files_that_are_no_checkpoint_are_explained(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_official(tmp_path / "none.pt")
    page = tmp_path / "page.pt"
    page.write_text("<html>quota exceeded</html>")
    with pytest.raises(CheckpointError, match="web page"):
        load_official(page)
    listing = tmp_path / "list.pt"
    torch.save([1, 2], listing)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_official(listing)


def random_batch(config: MAAGIQAConfig, batch: int) -> tuple[torch.Tensor, ...]:
    view = torch.randint(
        0, 256, (batch, config.image_size, config.image_size, 3), dtype=torch.uint8
    )
    return view, torch.randn(batch, config.semantic_dim), torch.randn(batch, config.semantic_dim)


def small(**changes: object) -> MAAGIQA:
    torch.manual_seed(0)
    return MAAGIQA(MAAGIQAConfig(**{**SMALL.__dict__, **changes})).eval()


@pytest.mark.parametrize("fusion", ["moe", "concat"])
@pytest.mark.parametrize(
    "inputs",
    [
        ("quality",),
        ("semantic",),
        ("coherence",),
        ("semantic", "coherence"),
        ("coherence", "quality"),
        ("quality", "semantic"),
        ("semantic", "coherence", "quality"),
    ],
    ids="+".join,
)
@torch.inference_mode()
def test_every_ablation_uses_exactly_its_inputs(inputs, fusion):
    model = small(inputs=inputs, fusion=fusion)
    if model.maniqa is not None:
        model.maniqa.score_head[3].bias.fill_(1.0)  # wakes the ReLU of the untrained head
    batch = random_batch(model.config, 3)
    output = model(*batch)
    assert (model.maniqa is not None) == ("quality" in inputs)
    assert [tuple(t.shape) for t in output] == [(3, 1), (3, 3), (3, 14, 14), (3, 14, 14)]
    for position, name in enumerate(("quality", "semantic", "coherence")):
        other = list(batch)
        other[position] = random_batch(model.config, 3)[position]
        moved = (model(*other).score - output.score).abs().max()
        assert (moved > 0) == (name in inputs)
    for position, name in enumerate(("semantic", "coherence", "quality")):
        assert bool((output.gate[:, position] != 0).any()) == (name in inputs)


@torch.inference_mode()
def test_gate_activations():
    batch = random_batch(SMALL, 4)
    raw = small(gate_activation="none")(*batch).gate
    torch.testing.assert_close(small(gate_activation="sigmoid")(*batch).gate, raw.sigmoid())
    torch.testing.assert_close(small(gate_activation="softmax")(*batch).gate, raw.softmax(dim=1))


@torch.inference_mode()
def test_fusion_is_equation_4():
    torch.manual_seed(0)
    fusion = AdaptiveFusion(dim=5, semantic_dim=7).eval()
    quality, semantic, coherence = torch.randn(2, 5), torch.randn(2, 7), torch.randn(2, 7)
    parts = [
        fusion.semantic[0](semantic).relu(),
        fusion.coherence[0](coherence).relu(),
        fusion.quality(quality),
    ]
    alpha = fusion.gate(torch.cat(parts, dim=1))
    fused = sum(alpha[:, i : i + 1] * part for i, part in enumerate(parts))
    score, gate = fusion(quality, semantic, coherence)
    torch.testing.assert_close(gate, alpha)
    torch.testing.assert_close(score, fusion.regression(fused))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@torch.inference_mode()
def test_every_variant_of_the_ablation_goes_to_torchscript(variant):
    sizes = {"swin_depths": (1,), "num_transposed_attention": 1, "feature_blocks": (0,)}
    model = small(fusion=variant.fusion, inputs=variant.inputs, **sizes)
    for network in (model, accelerate(model)):
        scripted = torch.jit.script(network)
        for batch in (1, 3):
            inputs = random_batch(SMALL, batch)
            for eager, script in zip(model(*inputs), scripted(*inputs), strict=True):
                torch.testing.assert_close(script, eager, atol=1e-5, rtol=0)
        assert 'Device = prim::Constant[value="' not in str(scripted.inlined_graph)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.1, 0.1, 0.1, 0.1]),
        ({"drop_path_schedule": "linear"}, [0, 0.1 / 3, 0.2 / 3, 0.1]),  # the authors' code
        ({"drop_path_schedule": "linear", "swin_depths": (1,)}, [0]),
    ],
)
def test_stochastic_depth_of_a_stage(changes, expected):
    model = small(**changes)
    for stage in (model.maniqa.stage1, model.maniqa.stage2):
        blocks = [block for layer in stage.swin for block in layer.blocks]
        found = [getattr(block.drop_path1, "drop_prob", 0) for block in blocks]
        assert found == pytest.approx(expected)


def test_impossible_settings_are_explained():
    with pytest.raises(ConfigError, match=r"scorer: unknown settings \['back_bone'\]"):
        from_mapping(MAAGIQAConfig, {"back_bone": "x"}, "scorer")
    with pytest.raises(ConfigError, match="Vision Transformer"):
        small(backbone="resnet18", backbone_args={})
    with pytest.raises(ConfigError, match="3 blocks"):
        small(feature_blocks=(2, 9))
    with pytest.raises(ConfigError, match="fusion 'sum'"):
        small(fusion="sum")
    with pytest.raises(ConfigError, match="inputs"):
        small(inputs=())
    with pytest.raises(ConfigError, match="drop_path_schedule is 'cosine'; choose one of"):
        small(drop_path_schedule="cosine")
    with pytest.raises(ConfigError, match=r"scorer\.drop_path is 1\.5"):
        small(drop_path=1.5)


def test_config_survives_plain_values():
    values = json.loads(json.dumps(to_mapping(SMALL)))
    assert from_mapping(MAAGIQAConfig, values, "scorer") == SMALL
