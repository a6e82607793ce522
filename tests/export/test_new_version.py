"""A checkpoint as a new version: formats, files, checks, and what is left after a failure."""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from exporter import formats, new_version, versions
from exporter.formats import BACKENDS
from exporter.new_version import NewVersion
from ma_agiqa.checkpoints.official import load_official
from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.networks import arithmetic as arithmetics
from support.reference import GOLDEN, official_tensors

SHIPPED = new_version.REPOSITORY
PYTHON_MODELS = ("meter", "mplug_owl2", "mplug_owl2_answer", "preprocess")
ADAPTERS = [f"{name}/1/model.py" for name in PYTHON_MODELS]
INPUTS = torch.randint(0, 256, (5, 224, 224, 3), dtype=torch.uint8), *torch.randn(2, 5, 128)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_repository_is_complete(exported):
    assert set(files(exported)) == {
        *ADAPTERS,
        *(f"{name}/config.pbtxt" for name in (*PYTHON_MODELS, "maniqa_moe")),
        *(f"{name}/config.pbtxt" for name in ("ma_agiqa", "ma_agiqa_v1")),
        *(f"{name}/1/.gitkeep" for name in ("ma_agiqa", "ma_agiqa_v1")),
        "preprocess/warmup/warmup_image",
        "maniqa_moe/1/model.pt",
        "maniqa_moe/1/model.onnx",
    }


def test_the_card_reaches_the_ensemble(exported, checkpoint, card):
    served = versions.read_parameters(exported, "ma_agiqa")
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert served["name"] == card.name
    assert served["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest()
    assert served["gate_activation"] == "sigmoid"
    assert served["version"] == "1"
    assert json.loads(served["metrics"], parse_constant=pytest.fail)["rmse"] is None  # was NaN


@torch.inference_mode()
def test_both_formats_compute_what_the_checkpoint_does(exported, source):
    for name in ("libtorch", "onnxruntime"):
        backend = BACKENDS[name]
        run = backend.read(exported / "maniqa_moe" / "1" / backend.file)
        for expected, output in zip(source.scorer(*INPUTS), run(*INPUTS), strict=True):
            torch.testing.assert_close(output, expected, atol=1e-3, rtol=0)


def test_what_is_served_tells_no_path_of_this_machine(exported):
    weights = (exported / "maniqa_moe" / "1" / "model.pt").read_bytes()
    assert b"site-packages" not in weights
    assert str(SHIPPED.parent).encode() not in weights


@pytest.mark.parametrize(
    ("arithmetic", "gpu", "dtype", "tolerance"),
    [
        ("exact", True, torch.float32, 1e-6),
        ("auto", False, torch.float32, 1e-4),
        ("auto", True, torch.float16, 0.01),
        ("bfloat16", True, torch.bfloat16, 0.01),
    ],
)
@torch.inference_mode()
def test_the_scorer_is_served_in_the_arithmetic_asked_for(
    tmp_path, source, arithmetic, gpu, dtype, tolerance
):
    chosen = arithmetics.choose_arithmetic(source.scorer, arithmetic, gpu, 5.0)
    BACKENDS["libtorch"].export(chosen, tmp_path, gpu)
    served = torch.jit.load(tmp_path / "model.pt")
    weights = {part.dtype for name, part in served.named_parameters() if ".swin." in name}
    assert weights == {dtype}
    outputs = served(*INPUTS)
    assert {part.dtype for part in outputs} == {torch.float32}
    assert float((outputs[0] - source.scorer(*INPUTS).score).abs().max()) <= tolerance


def test_scores_that_change_are_served_in_more_bits_or_exactly(source, monkeypatch):
    def chosen(arithmetic: str, gpu: bool) -> torch.nn.Module:
        return arithmetics.choose_arithmetic(source.scorer, arithmetic, gpu, 5.0)

    monkeypatch.setattr(arithmetics, "SCORE_TOLERANCE", -1.0)
    stage = chosen("auto", gpu=True).maniqa.stage1
    assert {part.dtype for part in stage.parameters()} == {torch.float32}
    monkeypatch.setattr(arithmetics, "ORDER_TOLERANCE", -1.0)
    for arithmetic, gpu in (("auto", False), ("auto", True), ("exact", True)):
        assert chosen(arithmetic, gpu) is source.scorer
    for arithmetic in ("float32", "bfloat16", "float16"):
        with pytest.raises(CheckpointError, match=f"--scorer {arithmetic} .* Choose .*exact"):
            chosen(arithmetic, gpu=True)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is missing")
@torch.inference_mode()
def test_a_pt2_archive_is_served_by_torch_aoti(tmp_path, source):
    chosen = arithmetics.choose_arithmetic(source.scorer, "auto", False, 5.0)
    BACKENDS["torch_aoti"].export(chosen, tmp_path)
    package = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2"))
    for expected, output in zip(source.scorer(*INPUTS), package(*INPUTS), strict=True):
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)
    given, made = (json.loads(spec)[1] for spec in package.loader.get_call_spec())
    # What Triton's backend reads its names from: ARGS[0] ... and RESULT[0] ...
    assert [one["type"] for one in given["children_spec"]] == ["builtins.tuple", "builtins.dict"]
    assert made["type"] == "builtins.tuple"
    assert (len(given["children_spec"][0]["children_spec"]), len(made["children_spec"])) == (3, 4)


@pytest.mark.parametrize("gpu", [True, False])
def test_pt2_for_a_gpu_is_written_where_one_is(tmp_path, source, monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    writing = Mock(side_effect=RuntimeError("g++: not found"))
    backend = dataclasses.replace(BACKENDS["torch_aoti"], write=writing)
    with pytest.raises(
        CheckpointError, match="none here" if gpu else r"compiled: g\+\+: not found"
    ):
        backend.export(source.scorer, tmp_path, gpu)
    assert writing.called != gpu


def test_the_backend_of_the_scorer_is_kept(repository, source, new, copied_scorer):
    new(repository, backend="onnxruntime").publish()
    assert versions.read_config(repository, "maniqa_moe").backend == "onnxruntime"
    assert versions.kept_versions(repository) == [2]  # version 1 has no such names
    assert NewVersion.for_running(source, repository).backend == "onnxruntime"


@pytest.mark.slow
def test_reference_weights_amplify_rounding_and_are_served_exactly():
    shapes = json.loads((GOLDEN / "ma_agiqa_full_parameters.json").read_text())
    model = load_official(official_tensors(shapes))
    assert arithmetics.choose_arithmetic(model, "auto", False, 5.0) is model


def test_the_next_export_is_the_next_version(repository, new, copied_scorer):
    before = files(repository)
    kept = ("mplug_owl2", "preprocess", *ADAPTERS, "preprocess/warmup/warmup_image")
    times = {name: (repository / name).stat().st_ctime_ns for name in kept}
    assert new(repository).publish() == 2
    after = files(repository)
    assert after["maniqa_moe/1/model.pt"] == before["maniqa_moe/1/model.pt"]
    assert "maniqa_moe/2/model.pt" in after
    assert versions.kept_versions(repository) == [1, 2]
    assert versions.active_version(repository) == 2
    # A running server loads again what has moved or changed: here, 16.4 GB for the paper's LMM.
    assert {name: (repository / name).stat().st_ctime_ns for name in kept} == times


def make_old(repository: Path) -> None:
    """Give a repository the adapters and the parameters of an older program."""
    for name in ADAPTERS:
        (repository / name).write_text("# old\n")
    config = versions.read_config(repository, "mplug_owl2")
    del config.parameters["weights_sha256"]
    versions.write_config(repository, config)


def test_an_old_repository_gets_the_adapters_of_this_program(
    repository, source, new, copied_scorer
):
    make_old(repository)
    with pytest.raises(ConfigError, match=r"by another version of this program\. .* restart"):
        NewVersion.for_running(source, repository)
    new(repository).publish()
    for name in ADAPTERS:
        assert (repository / name).read_bytes() == (SHIPPED / name).read_bytes()
    assert NewVersion.for_running(source, repository).embedder.source == "demo"


@pytest.mark.parametrize(
    "name", ["TORCHSCRIPT_TOLERANCE", pytest.param("ONNX_TOLERANCE", marks=pytest.mark.slow)]
)
def test_a_failed_check_writes_nothing(repository, new, monkeypatch, name):
    before = files(repository)
    monkeypatch.setattr(formats, name, -1.0)
    with pytest.raises(CheckpointError, match="Nothing was written"):
        new(repository).publish()
    assert files(repository) == before


def test_a_version_that_fits_no_more_is_removed(repository, new, copied_scorer):
    other = new(repository, "bfloat16")
    with pytest.raises(ConfigError, match="needs another mPLUG-Owl2, tensors of other sizes"):
        other.activate(())
    assert other.publish() == 2
    assert versions.kept_versions(repository) == [2]


def test_a_version_with_another_scale_is_not_served_next_to_this_one(
    repository, new, copied_scorer
):
    """The meter would count its scores as implausible."""
    percent = new(repository)
    card = dataclasses.replace(percent.source.card, mos_max=100.0)
    percent.source = dataclasses.replace(percent.source, card=card)
    with pytest.raises(ConfigError, match="or another scale of the MOS than are served"):
        percent.activate(())
    assert percent.publish() == 2
    assert versions.kept_versions(repository) == [2]


@pytest.mark.parametrize(("gpu", "kept"), [(False, [2, 3]), (True, [3])])
def test_a_compiled_version_is_kept_for_its_kind_of_device_only(
    repository, new, copied_scorer, gpu, kept
):
    new(repository, backend="torch_aoti").publish()
    again = new(repository, backend="torch_aoti")
    again.gpu = gpu
    assert again.publish() == 3
    assert versions.kept_versions(repository) == kept


def test_a_folder_that_cannot_be_replaced_is_refused(repository, new, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == repository)
    with pytest.raises(ConfigError, match=r"it is a mount point, or .*\. Give a folder in it, "):
        new(repository, "bfloat16").publish()
