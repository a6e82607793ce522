"""Checkpoint folders: what is written is read back; what does not fit is refused."""

import csv
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ma_agiqa.checkpoints import (
    checkpoint_sha256,
    load_scorer,
    save_checkpoint,
)
from ma_agiqa.errors import CheckpointError
from support.tiny_scorer import CARD, CONFIG, make_scorer

ROWS = [("a.png", "train"), ("b, c.png", "test")]


@pytest.fixture
def model():
    return make_scorer()


@pytest.fixture
def folder(tmp_path, model):
    return save_checkpoint(tmp_path / "checkpoint", model, CARD, ROWS)


def test_the_round_trip_keeps_weights_card_and_scores(folder, model):
    loaded, card = load_scorer(folder)
    assert card == CARD
    assert loaded.config == CONFIG
    assert not loaded.training
    view = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    semantic, coherence = torch.randn(2, 2, 8)
    with torch.inference_mode():
        expected, found = (m(view, semantic, coherence) for m in (model, loaded))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


def test_the_folder_holds_the_promised_files(folder):
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.yaml",
        "metrics.json",
        "split.csv",
    }
    assert json.loads((folder / "metrics.json").read_text()) == CARD.metrics
    with open(folder / "split.csv", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("image", "part"), *ROWS]
    assert len(checkpoint_sha256(folder)) == 64


def test_saving_again_replaces_the_folder_and_leaves_nothing_next_to_it(folder, model):
    before = checkpoint_sha256(folder)
    with torch.no_grad():
        model.fusion.gate.bias.add_(1)
    save_checkpoint(folder, model, CARD)
    assert checkpoint_sha256(folder) != before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failed_save_keeps_the_old_folder(folder, model, monkeypatch):
    before = checkpoint_sha256(folder)

    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ma_agiqa.checkpoints.folder.yaml.safe_dump", disk_full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(folder, model, CARD)
    assert checkpoint_sha256(folder) == before
    load_scorer(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "metrics.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_scorer(folder)


def test_weights_that_do_not_fit_are_listed(folder):
    state = load_file(folder / "model.safetensors")
    state["surplus"] = torch.zeros(1)
    del state["fusion.gate.bias"]
    state["fusion.gate.weight"] = torch.zeros(2, 2)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_scorer(folder)
    for part in (
        "missing: fusion.gate.bias",
        "unexpected: surplus",
        "fusion.gate.weight (2, 2) instead of (3, 588)",
    ):
        assert part in str(caught.value)


def test_damaged_weights_and_unknown_settings_are_errors(folder):
    config = folder / "config.yaml"
    document = yaml.safe_load(config.read_text())
    document["scorer"]["color"] = "red"
    config.write_text(yaml.safe_dump(document))
    with pytest.raises(CheckpointError, match="color"):
        load_scorer(folder)
    del document["scorer"]["color"]
    config.write_text(yaml.safe_dump(document))
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_scorer(folder)
