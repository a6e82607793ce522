"""Evaluation of the served model: the same numbers as in this process."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from conftest import ROOT
from ma_agiqa.checkpoints import checkpoint_sha256, load_scorer, save_checkpoint
from ma_agiqa.commands.evaluate import main
from ma_agiqa.data import make_split, read_images
from ma_agiqa.evaluate import score_selection, score_served, select_own
from ma_agiqa.evaluate.predictions import read_predictions
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.settings import to_mapping
from ma_agiqa.train.config import load_config

CHECKPOINT = ROOT / "training" / "checkpoints" / "demo"
TOLERANCE = 5e-3  # of MOS: embeddings pass through float16 in the store, through float32 there


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The example pictures as a data set of their own, its config, and the demo's weights."""
    folder = tmp_path_factory.mktemp("served")
    pictures = sorted((ROOT / "examples").glob("*.jpg"))
    (folder / "images").mkdir()
    for picture in pictures:
        shutil.copy(picture, folder / "images")
    mos = np.linspace(0.5, 4.5, len(pictures)).round(2)
    table = pd.DataFrame({"image": [picture.name for picture in pictures], "mos": mos})
    table.to_csv(folder / "data.csv", index=False)
    settings = {
        "name": "examples",
        "preset": "demo",
        "embedder": "demo",
        "output": str(folder / "run"),
        "seed": 1,
        "data": {"name": "examples", "csv": str(folder / "data.csv")},
        "split": {"kind": "paper"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def checkpoint(place):
    """The weights that are served, as a run on these pictures would have saved them."""
    scorer, card = load_scorer(CHECKPOINT)
    config = load_config(place / "config.yaml")
    split = make_split(read_images(config.data), config.split)
    card = dataclasses.replace(card, dataset="examples", training=to_mapping(config))
    save_checkpoint(place / "run", scorer, card, split.rows())
    return place / "run", scorer, card


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments), "--resamples", "20"])
    assert result.exit_code == code, result.output
    return result.output


def test_served_scores_are_those_of_this_process(server, place, checkpoint):
    _, scorer, card = checkpoint
    selection = select_own(load_config(place / "config.yaml"), "all")
    here = score_selection(scorer, card, selection)
    there, served = score_served(server.grpc_url, selection.members, "data.csv")
    assert len(there) == len(selection.members) == len(list((ROOT / "examples").glob("*.jpg")))
    assert there["image"].tolist() == here["image"].tolist()
    np.testing.assert_allclose(there["score"], here["score"], atol=TOLERANCE)
    assert np.ptp(there["score"]) > 100 * TOLERANCE
    assert served.checkpoint_sha256 == checkpoint_sha256(CHECKPOINT)


def test_the_command_measures_a_server(server, place, checkpoint, tmp_path):
    url = server.grpc_url
    printed = run(
        *("--config", place / "config.yaml", "--url", url),
        *("--part", "all", "--output", tmp_path),
    )
    frame = read_predictions(tmp_path / "predictions.csv")
    assert f"at {url}" in printed
    assert len(frame) == len(pd.read_csv(place / "data.csv"))
    assert frame["gate_semantic"].isna().all()
    run("--checkpoint", checkpoint[0], "--part", "all", "--output", tmp_path / "own")
    (there,), (here,) = (
        json.loads((folder / "metrics.json").read_text())["results"]
        for folder in (tmp_path, tmp_path / "own")
    )
    assert there["srcc"] == pytest.approx(here["srcc"], abs=1e-9)  # the order is the same
    assert there["plcc_raw"] == pytest.approx(here["plcc_raw"], abs=1e-3)


def test_the_images_of_a_checkpoint_and_the_weights_of_a_server_are_told_apart(
    server, place, checkpoint, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(checkpoint[0], folder)
    same = run("--checkpoint", folder, "--part", "all", "--url", server.grpc_url)
    assert "the server's weights are not those" not in same
    scorer = MAAGIQA(checkpoint[1].config)
    save_checkpoint(folder, scorer, checkpoint[2], [])
    shutil.copy(checkpoint[0] / "split.csv", folder)
    other = run("--checkpoint", folder, "--part", "all", "--url", server.grpc_url)
    assert "the server's weights are not those" in other


def test_images_that_cannot_be_scored_are_named_with_their_rows(server, place, tmp_path):
    shutil.copytree(place / "images", tmp_path / "images")
    for name in ("coffee_blur.jpg", "astronaut_melted.jpg"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    folder = f"data.image_folder={tmp_path / 'images'}"
    printed = run(
        *("--config", place / "config.yaml", "--url", server.grpc_url),
        *("--part", "all", "--set", folder),
        code=1,
    )
    table = pd.read_csv(place / "data.csv")
    for name in ("coffee_blur.jpg", "astronaut_melted.jpg"):
        row = table.index[table["image"] == name][0] + 2
        assert f"row {row}: {name}: " in printed
    assert str(place / "data.csv") in printed
    assert "2 problems" in printed


def test_no_server_at_the_address(place):
    printed = run("--config", place / "config.yaml", "--url", "127.0.0.1:9", code=1)
    assert "The server at 127.0.0.1:9 cannot be used" in printed
