"""A small checkpoint, and the repository that the command makes of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import to_triton
from ma_agiqa.checkpoints import ModelCard, save_checkpoint
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

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
        metrics={"srcc": 0.5, "plcc": 0.5, "krcc": 0.5, "rmse": 1.0, "split": "test"},
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Wrote version 1 of A ")
    assert "ONNX equals the model to" in done.stderr
    return repository
