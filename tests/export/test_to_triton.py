"""Exporting a checkpoint into a model repository."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import to_triton
from exporter import formats, new_version, versions
from ma_agiqa.checkpoints import ModelCard, save_checkpoint
from ma_agiqa.checkpoints.official import load_official
from ma_agiqa.errors import CheckpointError, DataError
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig
from support.reference import GOLDEN, official_tensors

SCRIPT = Path(to_triton.__file__)
CONFIG = MAAGIQAConfig(
    backbone="vit_tiny_patch16_224",
    backbone_args={"embed_dim": 32, "depth": 2, "num_heads": 2},
    feature_blocks=(0, 1),
    num_transposed_attention=1,
    swin_depths=(2,),
    swin_window=7,
    swin_mlp_dim=32,
    semantic_dim=128,
    gate_activation="sigmoid",
)
CARD = ModelCard(
    name='A "small" model, größer als keins',
    preset="demo",
    dataset="none",
    mos_min=0.0,
    mos_max=5.0,
    mos_quantiles=tuple(i / 20 for i in range(101)),
    created="2026-01-31T12:00:00+00:00",
    note="Random weights.",
    metrics={"srcc": 0.5, "plcc": 0.5, "krcc": 0.5, "rmse": 1.0, "split": "test"},
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save_checkpoint(tmp_path_factory.mktemp("runs") / "small", MAAGIQA(CONFIG), CARD)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def repository(checkpoint, tmp_path_factory) -> Path:
    """A repository that the command made from nothing."""
    repository = tmp_path_factory.mktemp("exported") / "models"
    done = run("--checkpoint", checkpoint, "--repository", repository, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "Wrote version 1" in done.stdout
    return repository


def test_the_repository_is_complete(repository):
    assert set(files(repository)) == {
        "ma_agiqa/config.pbtxt",
        "ma_agiqa/1/.gitkeep",
        "ma_agiqa_v1/config.pbtxt",
        "ma_agiqa_v1/1/.gitkeep",
        "preprocess/config.pbtxt",
        "preprocess/1/model.py",
        "preprocess/warmup/warmup_image",
        "mplug_owl2/config.pbtxt",
        "meter/1/model.py",
        "meter/config.pbtxt",
        "mplug_owl2/1/model.py",
        "mplug_owl2_answer/config.pbtxt",
        "mplug_owl2_answer/1/model.py",
        "maniqa_moe/config.pbtxt",
        "maniqa_moe/1/model.pt",
        "maniqa_moe/1/model.onnx",
    }


def test_the_card_reaches_the_ensemble(repository, checkpoint):
    text = (repository / "ma_agiqa" / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    card = {name: value.string_value for name, value in config.parameters.items()}
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert card["name"] == CARD.name
    assert card["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest()
    assert card["gate_activation"] == "sigmoid"
    assert card["version"] == "1"


@torch.inference_mode()
def test_both_formats_compute_what_the_checkpoint_does(repository, checkpoint):
    model = new_version.read_checkpoint(checkpoint).model
    view = torch.randint(0, 256, (5, 224, 224, 3), dtype=torch.uint8)
    semantic, coherence = torch.randn(2, 5, 128)
    eager = model(view, semantic, coherence)
    folder = repository / "maniqa_moe" / "1"
    scripted = torch.jit.load(folder / "model.pt")(view, semantic, coherence)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [item.name for item in session.get_inputs()]
    assert names == ["QUALITY_VIEW", "SEMANTIC", "COHERENCE"]
    arrays = (tensor.numpy() for tensor in (view, semantic, coherence))
    exported = session.run(None, dict(zip(names, arrays, strict=True)))
    for expected, script, onnx in zip(eager, scripted, exported, strict=True):
        np.testing.assert_allclose(script, expected, atol=1e-4)
        np.testing.assert_allclose(onnx, expected, atol=1e-3)


def scorer_weights(folder: Path) -> set[torch.dtype]:
    """Types of the weights of MANIQA's Swin blocks, as they are served."""
    model = torch.jit.load(folder / "maniqa_moe" / "1" / "model.pt")
    return {part.dtype for name, part in model.named_parameters() if ".swin." in name}


@pytest.mark.parametrize(
    ("arithmetic", "dtype", "tolerance"),
    [
        ("exact", torch.float32, 1e-6),
        ("auto", torch.float32, 1e-4),
        ("bfloat16", torch.bfloat16, 0.01),
    ],
)
@torch.inference_mode()
def test_the_scorer_is_served_in_the_arithmetic_asked_for(
    tmp_path, checkpoint, monkeypatch, arithmetic, dtype, tolerance
):
    monkeypatch.setattr(new_version, "export_onnx", lambda *_: 0.0)
    source = new_version.read_checkpoint(checkpoint)
    new_version.export(source, tmp_path, "demo", "float32", gpu=False, arithmetic=arithmetic)
    assert scorer_weights(tmp_path) == {dtype}
    inputs = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8), *torch.randn(2, 3, 128)
    served = torch.jit.load(tmp_path / "maniqa_moe" / "1" / "model.pt")(*inputs)
    assert {part.dtype for part in served} == {torch.float32}
    assert float((served[0] - source.model(*inputs).score).abs().max()) <= tolerance


def test_scores_that_change_are_served_exactly(checkpoint, monkeypatch):
    model = new_version.read_checkpoint(checkpoint).model
    assert formats.choose_arithmetic(model, "auto", False, 5.0) is not model
    monkeypatch.setattr(formats, "TORCHSCRIPT_TOLERANCE", 0.0)
    monkeypatch.setattr(formats, "SCORE_TOLERANCE", 0.0)
    for arithmetic in ("auto", "exact"):
        assert formats.choose_arithmetic(model, arithmetic, False, 5.0) is model
    for arithmetic in ("float32", "bfloat16"):
        with pytest.raises(CheckpointError, match=f"--scorer {arithmetic}: .* Choose exact"):
            formats.choose_arithmetic(model, arithmetic, False, 5.0)


@pytest.mark.slow
def test_reference_weights_amplify_rounding_and_are_served_exactly():
    shapes = json.loads((GOLDEN / "ma_agiqa_full_parameters.json").read_text())
    model = load_official(official_tensors(shapes))
    assert formats.choose_arithmetic(model, "auto", False, 5.0) is model


def small_export(checkpoint: Path, repository: Path) -> int:
    source = new_version.read_checkpoint(checkpoint)
    return new_version.export(source, repository, owl="demo", dtype="float32", gpu=False)


def test_the_next_export_is_the_next_version(repository, checkpoint):
    before = files(repository)
    left = repository / "maniqa_moe" / ".export-killed"
    left.mkdir()
    assert small_export(checkpoint, repository) == 2
    assert not left.exists()
    after = files(repository)
    assert after["maniqa_moe/1/model.pt"] == before["maniqa_moe/1/model.pt"]
    assert "maniqa_moe/2/model.pt" in after
    assert versions.kept_versions(repository) == [1, 2]
    assert versions.active_version(repository) == 2
    for name in ("preprocess", "mplug_owl2"):  # a running server must not load them anew
        path = f"{name}/config.pbtxt"
        assert after[path] == before[path]


@pytest.mark.parametrize("name", ["TORCHSCRIPT_TOLERANCE", "ONNX_TOLERANCE"])
def test_a_failed_check_writes_nothing(repository, checkpoint, monkeypatch, name):
    before = files(repository)
    monkeypatch.setattr(formats, name, -1.0)
    with pytest.raises(CheckpointError, match="Nothing was written"):
        small_export(checkpoint, repository)
    assert files(repository) == before


def test_a_failed_move_leaves_no_half_version(repository, checkpoint, monkeypatch):
    before = set(files(repository))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    monkeypatch.setattr(new_version, "export_onnx", lambda *_: 0.0)
    with pytest.raises(DataError, match=r"is full: .*No space left.*Free some space"):
        small_export(checkpoint, repository)
    assert set(files(repository)) == before


def test_networks_that_do_not_fit_are_refused(tmp_path, checkpoint, tiny_owl):
    source = new_version.read_checkpoint(checkpoint)
    tiny_owl["build"]().save_pretrained(tmp_path / "owl")
    wide = {**tiny_owl["config"], "hidden_size": 64, "num_attention_heads": 4}
    type(tiny_owl["build"]())(**wide).save_pretrained(tmp_path / "narrow")
    with pytest.raises(CheckpointError, match=r"of width 128; .* gives 64"):
        new_version.export(
            source, tmp_path / "models", str(tmp_path / "narrow"), "float32", gpu=False
        )
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "paper"], "Fetch it with `make paper`"),
        (["--checkpoint", "nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["--preset", "huge"], "'huge' is not one of"),
        (["--dtype", "int3"], "'int3' is not one of"),
    ],
)
def test_wrong_arguments_end_in_a_sentence(tmp_path, arguments, sentence):
    done = run(*arguments, "--repository", tmp_path / "models")
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("given", "served"), [("int8", "int8"), ("bf16", "bfloat16")])
def test_a_dtype_is_served_under_its_long_name(tmp_path, monkeypatch, given, served):
    asked = []
    monkeypatch.setattr(to_triton, "export", lambda *args, **_: asked.append(args[3]) or 1)
    arguments = ["--dtype", given, "--repository", str(tmp_path / "models")]
    done = CliRunner().invoke(to_triton.main, arguments)
    assert done.exit_code == 0, done.output
    assert asked == [served]
    assert served in done.stdout
