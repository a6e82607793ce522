"""Training, run for real on a small synthetic set; and the shipped demo checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ma_agiqa.checkpoint import load_checkpoint
from ma_agiqa.datasets import read_table, split_by_group
from ma_agiqa.errors import ConfigError
from ma_agiqa.features import ScorerDataset, identify, prepare
from ma_agiqa.metrics import evaluate
from ma_agiqa.presets import build_embedder
from ma_agiqa.scorer import MAAGIQA
from ma_agiqa.synthetic import ensure
from ma_agiqa.train import freeze
from ma_agiqa.training_config import load_config

ROOT = Path(__file__).resolve().parents[2]
DEMO_CONFIG = ROOT / "training" / "configs" / "demo.yaml"
DEMO_CHECKPOINT = ROOT / "training" / "checkpoints" / "demo"


def small_settings(folder: Path) -> dict:
    """The demo's settings with little data and two epochs."""
    settings = yaml.safe_load(DEMO_CONFIG.read_text())
    settings["output"] = str(folder / "run")
    settings["data"]["csv"] = str(folder / "set" / "data.csv")
    settings["data"]["synthetic"] = {
        "seed": 1,
        "scenes_per_kind": 2,
        "crops_per_photograph": 1,
        "crops_per_texture": 0,
        "patterns_per_kind": 1,
        "degraded_per_view": 2,
    }
    settings["split"] = {"seed": 1, "validation": 0.2, "test": 0.2}
    settings["optimisation"]["epochs"] = 2
    return settings


def run_training(folder: Path, settings: dict) -> subprocess.CompletedProcess[str]:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "ma_agiqa.train", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    done = run_training(folder, small_settings(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_the_checkpoint_is_complete_and_says_what_it_is(trained):
    model, card = load_checkpoint(trained / "run")
    rows = (trained / "run" / "split.csv").read_text().splitlines()[1:]
    parts = [row.rsplit(",", 1)[1] for row in rows]
    assert card.preset == "demo"
    assert "demo" in card.note.lower()
    assert len(card.mos_quantiles) == 101
    assert card.metrics["split"] == "test"
    assert not model.training
    table = (trained / "set" / "data.csv").read_text().splitlines()[1:]
    assert len(rows) == len(table)
    # Every image of a part is measured; none is dropped with the last batch.
    assert card.metrics["count"] == parts.count("test")
    assert card.metrics["validation"]["count"] == parts.count("validation")


def test_no_source_is_in_two_parts(trained):
    config = load_config(trained / "config.yaml")
    images = read_table(config.data.csv, None, config.data.columns, config.data.mos_range)
    split = split_by_group(images, 1, 0.2, 0.2)
    groups = [{image.group for image in members} for _, members in split.items()]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_the_same_seed_gives_the_same_weights(trained, tmp_path):
    settings = small_settings(trained)
    settings["output"] = str(tmp_path / "again")
    done = run_training(tmp_path, settings)
    assert done.returncode == 0, done.stderr
    first, second = (
        load_checkpoint(folder)[0].state_dict() for folder in (trained / "run", tmp_path / "again")
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"optimizer": "sgd"}, "unknown settings ['optimizer']"),
        ({"seed": "one"}, "seed is 'one'; expected an integer"),
        ({"scorer": {"semantic_dim": 64}}, "set it to 128"),
    ],
)
def test_wrong_settings_end_in_a_sentence(trained, tmp_path, change, sentence):
    settings = {**small_settings(trained), **change}
    if "scorer" in change:
        settings["scorer"] = {**small_settings(trained)["scorer"], **change["scorer"]}
    done = run_training(tmp_path, settings)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_frozen_parameters_are_those_named():
    model = MAAGIQA(load_config(DEMO_CONFIG).scorer_config())
    freeze(model, ["maniqa.backbone."])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith("maniqa.backbone.")
    with pytest.raises(ConfigError, match=r"'maniqa\.nothing'"):
        freeze(model, ["maniqa.nothing"])


@pytest.mark.slow
def test_the_shipped_metrics_are_those_of_the_shipped_checkpoint(tmp_path):
    """Builds the synthetic set again and scores the held-out sources."""
    config = load_config(DEMO_CONFIG)
    table = ensure(tmp_path / "synthetic", config.data.synthetic)
    images = read_table(table, None, config.data.columns, config.data.mos_range)
    split = config.split
    test = split_by_group(images, split.seed, split.validation, split.test).test
    embedder = build_embedder("demo")
    identity = identify("demo", embedder)
    features = prepare(tmp_path / "features", test, embedder, identity, embedder.image_size)
    dataset = ScorerDataset(features, range(len(test)), [image.mos for image in test], None)
    model, card = load_checkpoint(DEMO_CHECKPOINT)
    with torch.inference_mode():
        scores = [
            model(*(dataset[i][name][None] for name in ("quality_view", "semantic", "coherence")))
            for i in range(len(dataset))
        ]
    found = evaluate([i.mos for i in test], np.array([float(s.score) for s in scores])).to_dict()
    assert len(test) == card.metrics["count"]
    for name in ("srcc", "plcc", "krcc", "rmse"):
        assert found[name] == pytest.approx(card.metrics[name], abs=2e-3), name
    assert found["srcc"] >= 0.80


def test_what_is_shipped_is_small():
    weights = [
        DEMO_CHECKPOINT / "model.safetensors",
        *(ROOT / "model_repository" / "maniqa_moe").glob("1/model.pt"),
    ]
    assert len(weights) == 2
    assert sum(path.stat().st_size for path in weights) < 10_000_000
    assert json.loads((DEMO_CHECKPOINT / "metrics.json").read_text())["srcc"] >= 0.80
