"""One small run, from images to checkpoint, that the tests of several rooms share."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ma_agiqa.commands.train import main
from ma_agiqa.train.config import TrainingConfig, load_config
from support.generated_agiqa_3k import write_tree

SMALL_SCORER = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_args": {"embed_dim": 16, "depth": 1, "num_heads": 1},
    "feature_blocks": [0],
    "num_transposed_attention": 1,
    "swin_depths": [1],
    "swin_heads": 1,
    "swin_window": 7,
    "swin_mlp_dim": 16,
    "semantic_dim": 128,
    "gate_activation": "sigmoid",
}


@dataclass(frozen=True)
class SmallRun:
    """Eighty images under AGIQA-3k's names, and a scorer trained on 56 of them for three epochs.

    Nothing in its folder may be changed; other checkpoints go elsewhere.
    """

    folder: Path
    config_path: Path
    checkpoint: Path

    def config(self, **changes: str) -> TrainingConfig:
        """Its settings, with changes by dotted name (two underscores stand for the dot)."""
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return load_config(self.config_path, named)


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of the small run; its images are there."""
    folder = tmp_path_factory.mktemp("small")
    settings = {
        "name": "small",
        "preset": "demo",
        "embedder": "demo",
        "note": "A demo of the tests.",
        "output": str(folder / "run"),
        "seed": 1,
        "backbone_weights": "none",
        "data": {
            "name": "AGIQA-3k",
            "csv": str(write_tree(folder / "data", 80)),
            "columns": {"image": "name", "mos": "mos_quality"},
            "generator_pattern": "^([^_]+)_",
        },
        "split": {"kind": "paper"},
        "scorer": SMALL_SCORER,
        "optimization": {
            "epochs": 3,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "start": "average",
            "max_grad_norm": 1.0,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder / "config.yaml"


@pytest.fixture(scope="session")
def small_run(small_config: Path) -> SmallRun:
    """The small run, trained without interruption by the command."""
    done = CliRunner().invoke(main, ["--config", str(small_config)])
    assert done.exit_code == 0, done.output
    return SmallRun(small_config.parent, small_config, small_config.parent / "run")
