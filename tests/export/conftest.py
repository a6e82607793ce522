"""A small checkpoint, and the repository that the command makes of it."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import to_triton
from exporter.new_version import NewVersion, Source
from ma_agiqa.checkpoints import ModelCard, save_checkpoint
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig
from support.servers import SHIPPED

CONFIG = MAAGIQAConfig(
    backbone="vit_tiny_patch16_224",
    backbone_args={"patch_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2},
    feature_blocks=(0, 1),
    num_transposed_attention=1,
    swin_depths=(2,),
    swin_window=7,
    swin_mlp_dim=32,
    semantic_dim=128,
    gate_activation="sigmoid",
)


@pytest.fixture(scope="session")
def card() -> ModelCard:
    return ModelCard(
        name='A "small" model, größer als keins',
        preset="demo",
        dataset="none",
        mos_min=0.0,
        mos_max=5.0,
        mos_quantiles=tuple(i / 20 for i in range(101)),
        created="2026-01-31T12:00:00+00:00",
        note="Random weights.",
        embedder=dataclasses.asdict(EmbedderIdentity.of("demo", "float32")),
        metrics={"srcc": 0.5, "plcc": 0.5, "krcc": 0.5, "rmse": float("nan"), "split": "test"},
    )


@pytest.fixture(scope="session")
def checkpoint(card, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save_checkpoint(tmp_path_factory.mktemp("runs") / "small", MAAGIQA(CONFIG), card)


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory) -> Path:
    """A repository that the script made from nothing, in a process of its own; do not change it."""
    repository = tmp_path_factory.mktemp("exported") / "models"
    options = ("--checkpoint", checkpoint, "--repository", repository, "--device", "cpu")
    command = [sys.executable, to_triton.__file__, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Wrote version 1 of A ")
    assert "ONNX equals the model to" in done.stderr
    return repository


@pytest.fixture(scope="session")
def source(checkpoint) -> Source:
    return Source.read(checkpoint)


@pytest.fixture
def repository(tmp_path) -> Path:
    """A copy of the shipped repository, next to whose version those of `new` fit."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(SHIPPED, tmp_path / "models", ignore=ignored))


@pytest.fixture
def new(source) -> Callable[..., NewVersion]:
    """Makes a version of the small checkpoint, with the demo's embedder on the CPU."""

    def make(repository: Path, dtype: str = "float32", **options: object) -> NewVersion:
        identity = EmbedderIdentity.of("demo", dtype)
        return NewVersion(source, repository, identity, gpu=False, any_dtype=True, **options)

    return make


@pytest.fixture
def copied_scorer(monkeypatch) -> None:
    """Stage the shipped networks instead of the small ones, without the time that writing takes."""

    def stage(new: NewVersion, folder: Path) -> torch.nn.Module:
        shutil.copytree(SHIPPED / "maniqa_moe" / "1", folder, dirs_exist_ok=True)
        return new.source.scorer

    monkeypatch.setattr(NewVersion, "stage", stage)


@pytest.fixture
def two_versions(repository, new, copied_scorer) -> Path:
    """Versions 1 and 2, of which 2 is active."""
    new(repository).publish()
    return repository
