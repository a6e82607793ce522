"""mPLUG-Owl2 against outputs of the official implementation (float32)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config, MPlugOwl2Model
from support.published_weights import INDEX, SHARDS, write_mplug_owl2

TOLERANCE = 2e-5  # absolute; the values are of order 1


@pytest.fixture(scope="module")
def model(tiny_owl) -> MPlugOwl2Model:
    return MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_each_part_equals_the_official_code(model, tiny_owl):
    reference = tiny_owl["reference"]
    pixels = reference["pixel_values"]
    close(model.vision_model(pixels), reference["vision_last_hidden"])
    close(model.encode_images(pixels), reference["abstractor"])
    for prompt, ids in tiny_owl["input_ids"].items():
        close(model(pixels, ids), reference[f"{prompt}_hidden_last"])


def test_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = MPlugOwl2Model(MPlugOwl2Config())
    lm_head = 32000 * 4096
    count = sum(parameter.numel() for parameter in model.parameters()) + lm_head
    assert count == pytest.approx(8.198e9, rel=1e-4)


def test_missing_and_unexpected_tensors_are_named(tiny_owl):
    state = dict(tiny_owl["state"])
    del state["model.norm.weight"]
    state["model.surplus.weight"] = torch.ones(2)
    with pytest.raises(CheckpointError, match=r"missing: norm\.weight.*unexpected: surplus"):
        MPlugOwl2Model.from_official(tiny_owl["build"](), state)


def test_other_shapes_are_named(tiny_owl):
    state = {**tiny_owl["state"], "model.norm.weight": torch.ones(64)}
    with pytest.raises(CheckpointError, match=r"norm\.weight \(64,\) instead of \(128,\)"):
        MPlugOwl2Model.from_official(tiny_owl["build"](), state)


def write_hub_folder(folder: Path, tiny_owl: dict, state: dict, sharded: bool) -> Path:
    """A folder like the hub's: its config.json keys, and more tensors than the function's."""
    folder.mkdir()
    config = {
        **tiny_owl["config"],
        "architectures": ["MPLUGOwl2LlamaForCausalLM"],
        "rope_scaling": None,
        "torch_dtype": "float16",
        "use_cache": True,
    }
    state = {**state, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    write_mplug_owl2(folder, config, state)
    if not sharded:
        for shard in (INDEX, *SHARDS):
            (folder / shard).unlink()
        halves = {name: value.half().contiguous() for name, value in state.items()}
        save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("sharded", [True, False], ids=["bin shards", "safetensors"])
def test_from_pretrained_reads_a_hub_folder(tmp_path, tiny_owl, model, sharded):
    folder = write_hub_folder(tmp_path / "owl", tiny_owl, tiny_owl["state"], sharded)
    loaded = MPlugOwl2Model.from_pretrained(folder, dtype=torch.float32)
    for name, value in model.state_dict().items():
        expected = value if name.endswith("_pos_embed") else value.half().float()
        torch.testing.assert_close(loaded.state_dict()[name], expected, atol=0, rtol=0)


def test_from_pretrained_names_what_does_not_fit(tmp_path, tiny_owl):
    state = dict(tiny_owl["state"])
    state["model.surplus.weight"] = state.pop("model.norm.weight")
    folder = write_hub_folder(tmp_path / "owl", tiny_owl, state, sharded=False)
    with pytest.raises(CheckpointError, match=r"missing: norm\.weight; unexpected: .*surplus"):
        MPlugOwl2Model.from_pretrained(folder)


def test_half_precision_runs_and_stays_close(model, tiny_owl):
    pixels = tiny_owl["reference"]["pixel_values"]
    half = MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"]).bfloat16()
    with torch.inference_mode():
        tokens = half.encode_images(pixels.bfloat16())
    assert tokens.dtype == torch.bfloat16
    similarity = torch.nn.functional.cosine_similarity(
        tokens.float().flatten(1), tiny_owl["reference"]["abstractor"].flatten(1)
    )
    assert similarity.min() > 0.999


def test_a_prompt_holds_the_image_once(model):
    for ids in ([1, 2, 3], [1, -200, 2, -200]):
        with pytest.raises(ConfigError, match="must hold the image"):
            model.split_prompt(ids)


def test_another_vision_architecture_is_refused():
    config = MPlugOwl2Config(visual_config={"visual_model": {"use_cls_token": False}})
    with pytest.raises(ConfigError, match="use_cls_token"):
        _ = config.vision
