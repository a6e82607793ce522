"""Loading mPLUG-Owl2: every kind of file gives the same weights, mapped where they can be."""

import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from ma_agiqa.commands.mplug_owl2 import main as convert
from ma_agiqa.errors import CheckpointError
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model, loading
from ma_agiqa.lmm.mplug_owl2.loading import load_mplug_owl2, quantize_model
from ma_agiqa.lmm.mplug_owl2.quantization import (
    Int8ProductLinear,
    packed_bytes,
    packed_in_place,
)
from ma_agiqa.lmm.mplug_owl2.weight_files import write_tensors
from ma_agiqa.lmm.sources import build_embedder
from support.published_weights import write_mplug_owl2


@pytest.fixture(scope="module")
def published(tmp_path_factory, tiny_owl) -> Path:
    """A folder like the hub's: float16 .bin shards and an index, with what embeddings ignore."""
    folder = tmp_path_factory.mktemp("owl")
    write_mplug_owl2(folder, tiny_owl["config"], tiny_owl["state"])
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory, published) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "owl"
    done = CliRunner().invoke(convert, [str(published), str(folder), "--dtype", "bf16"])
    assert done.exit_code == 0, done.output
    return folder


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text()


def same(model: MPlugOwl2Model, tiny_owl: dict, dtype: torch.dtype) -> None:
    expected = MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"]).state_dict()
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert value.dtype == dtype
        if not name.endswith("_pos_embed"):
            torch.testing.assert_close(value, expected[name].half().to(dtype), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shards_of_the_hub_load_in_every_dtype(published, tiny_owl, dtype):
    same(load_mplug_owl2(str(published), str(dtype).removeprefix("torch.")), tiny_owl, dtype)


def test_converted_weights_are_the_same_and_stay_mapped(converted, tiny_owl):
    model = load_mplug_owl2(str(converted), "bfloat16")
    same(model, tiny_owl, torch.bfloat16)
    assert str(converted) in mapped_files()
    assert (converted / "tokenizer.model").read_bytes() == b"sentencepiece"
    assert json.loads((converted / "config.json").read_text())["torch_dtype"] == "bfloat16"
    names = json.loads((converted / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" in names  # answers need it


def test_weights_of_another_dtype_let_go_of_the_file(converted):
    model = load_mplug_owl2(str(converted), "float16")
    assert model.dtype == torch.float16
    assert str(converted) not in mapped_files()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantized_weights_stay_mapped(converted, dtype):
    model = load_mplug_owl2(str(converted), dtype)
    assert model.dtype == torch.bfloat16
    places = [
        range(*(int(end, 16) for end in line.split()[0].split("-")))
        for line in mapped_files().splitlines()
        if str(converted) in line
    ]
    for name, value in model.state_dict().items():
        start = torch.ops.mkldnn.data_ptr(value) if value.is_mkldnn else value.data_ptr()
        assert any(start in place for place in places), name


def test_a_packed_weight_keeps_the_memory_that_it_is_in():
    if not Int8ProductLinear.is_fast():
        pytest.skip("needs a CPU with VNNI instructions")
    codes = torch.randint(-127, 128, (64, 128), dtype=torch.int8)
    example = Int8ProductLinear.pack(codes)
    content = packed_bytes(example)
    kept = weakref.ref(content)
    packed = packed_in_place(content, example)
    del content
    assert torch.equal(packed.to_dense(), codes.t())
    assert kept() is not None
    del packed
    assert kept() is None
    with pytest.raises(CheckpointError, match="Delete the folder of quantized weights"):
        packed_in_place(packed_bytes(example)[1:], example)


def test_quantizing_while_loading_equals_quantizing_afterwards(converted):
    loaded = load_mplug_owl2(str(converted), "int4").state_dict()
    afterwards = quantize_model(load_mplug_owl2(str(converted), "bfloat16"), "int4").state_dict()
    for name, value in afterwards.items():
        assert torch.equal(_dense(loaded[name]), _dense(value)), name


def _dense(value: torch.Tensor) -> torch.Tensor:
    return value.to_dense() if value.is_mkldnn else value


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantized_weights_are_kept_on_the_disk_for_the_next_start(
    published, tmp_path, monkeypatch, caplog, dtype, fast
):
    """Made once for each state of the source; the same numbers from the disk, and mapped."""
    if fast and not Int8ProductLinear.is_fast():
        pytest.skip("needs a CPU with VNNI instructions")
    monkeypatch.setattr(Int8ProductLinear, "is_fast", lambda: fast)
    source = tmp_path / "owl"
    shutil.copytree(published, source)
    made = load_mplug_owl2(str(source), dtype).state_dict()
    (folder,) = source.glob(f"{dtype}-*")
    assert f"GB are written to {folder}" in caplog.text
    monkeypatch.setattr(loading, "quantize_weight", None)  # it would fail
    again = load_mplug_owl2(str(source), dtype).state_dict()
    assert all(torch.equal(_dense(again[name]), _dense(value)) for name, value in made.items())
    monkeypatch.undo()
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}))
    load_mplug_owl2(str(source), dtype)
    assert len(list(source.glob(f"{dtype}-*"))) == 2


def test_without_room_for_quantized_weights_they_are_made_in_memory(
    published, tmp_path, monkeypatch, caplog
):
    source = tmp_path / "owl"
    shutil.copytree(published, source)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    load_mplug_owl2(str(source), "int8")
    assert "are not kept for the next start" in caplog.text
    assert not list(source.glob("*int8-*"))


def test_what_does_not_fit_is_named(tmp_path, tiny_owl):
    state = dict(tiny_owl["state"])
    state["model.surplus.weight"] = state.pop("model.norm.weight")
    state["model.vision_model.post_layernorm.bias"] = torch.ones(3)
    settings = {**tiny_owl["config"], "model_type": "mplug_owl2"}
    write_tensors(tmp_path / "owl", settings, state.items())
    said = r"missing: norm\.weight; unexpected: surplus.*post_layernorm\.bias \(3,\) instead"
    with pytest.raises(CheckpointError, match=said):
        build_embedder(str(tmp_path / "owl"))


def test_a_lost_shard_is_named(tmp_path, tiny_owl):
    settings = {**tiny_owl["config"], "model_type": "mplug_owl2"}
    write_tensors(tmp_path / "owl", settings, tiny_owl["state"].items())
    (tmp_path / "owl" / "model-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00001\.safetensors is missing"):
        build_embedder(str(tmp_path / "owl"))


def test_a_folder_without_weights_is_said(tmp_path, tiny_owl):
    (tmp_path / "config.json").write_text(
        json.dumps({**tiny_owl["config"], "model_type": "mplug_owl2"})
    )
    with pytest.raises(CheckpointError, match="has no weights"):
        build_embedder(str(tmp_path))
