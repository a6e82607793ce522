"""The baselines as a whole: real scores where code is at hand, a named gap where it is not."""

import csv
import importlib.util
import json
import types
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import skimage.data
import torch
import yaml
from click.testing import CliRunner
from scipy import stats
from torch import nn

from ma_agiqa.commands.baselines import main
from ma_agiqa.data import make_split, read_images
from ma_agiqa.errors import DataError, DownloadError
from ma_agiqa.evaluate.baselines import METHODS, Options, comparison, scoring
from ma_agiqa.evaluate.baselines.methods import TRAINABLE, Method
from ma_agiqa.evaluate.baselines.networks import Network
from ma_agiqa.evaluate.paper_results import METHODS as PAPER_METHODS
from ma_agiqa.evaluate.predictions import build_predictions, read_predictions, write_predictions
from ma_agiqa.train.config import load_config

needs_brisque = pytest.mark.skipif(
    importlib.util.find_spec("brisque") is None or importlib.util.find_spec("pyiqa") is not None,
    reason="needs the extra baselines, and not pyiqa in its place: make test-baselines",
)

COUNT, TESTED = 60, 12


@pytest.fixture
def config_file(tmp_path):
    """Crops of a photograph, made worse by more and more noise."""
    rng = np.random.default_rng(7)
    photograph = skimage.data.astronaut()
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for index in range(COUNT):
        badness = index / (COUNT - 1)
        top, left = rng.integers(0, 512 - 192, 2)
        crop = photograph[top : top + 192, left : left + 192]
        noisy = crop + rng.normal(0, 0.01 + 60 * badness, crop.shape)
        cv2.imwrite(str(images / f"{index:02}.png"), np.clip(noisy, 0, 255).astype(np.uint8))
        rows.append([f"{index:02}.png", round(4.5 - 4 * badness, 3), "m"])
    with open(tmp_path / "data.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "mos", "model"], *rows])
    settings = {
        "name": "baselines",
        "preset": "demo",
        "embedder": "demo",
        "output": str(tmp_path / "run"),
        "seed": 1,
        "data": {"name": "AGIQA-3k", "csv": str(tmp_path / "data.csv")},
        "split": {"kind": "paper"},
        "optimization": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "config.yaml"


@pytest.fixture
def tested(config_file):
    config = load_config(config_file)
    return make_split(read_images(config.data), config.split).test


@pytest.fixture
def baselines(config_file, tmp_path):
    """Runs the command; its output goes to the folder `out`."""

    def run(*arguments):
        command = ["--config", config_file, "--output", tmp_path / "out", "--resamples", 20]
        words = [str(word) for word in (*command, "--device", "cpu", *arguments)]
        return CliRunner().invoke(main, words)

    return run


class Contrast:
    """A method that measures the spread of the pixels: less of it is taken for better."""

    origin = "contrast 1.0"

    def score(self, rgb):
        if rgb.std() == 0:
            raise DataError("this image is flat.")
        return float(np.abs(np.diff(rgb.astype(float), axis=0)).mean())


class TinyNetwork(nn.Module):
    """A network of five weights that sees the contrast."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(3, 1)

    def forward(self, pixels):
        return self.layer(pixels.diff(dim=2).abs().mean(dim=(2, 3)))


@pytest.fixture
def methods(monkeypatch):
    """pyiqa's place is taken by a method and a network of the tests."""
    chosen = (
        Method("niqe", "NIQE", lower_is_better=True, cpu_bound=True),
        Method("hyperiqa", "HyperIQA", trained=True),
        METHODS["musiq"],
    )

    def load(key, options):
        scorers = {"niqe": Contrast(), "hyperiqa": Contrast()}
        return scorers.get(key) or scoring.load(key, options)

    monkeypatch.setattr(comparison, "METHODS", {method.key: method for method in chosen})
    monkeypatch.setattr(comparison, "load", load)
    monkeypatch.setattr(comparison, "load_first_weights", lambda *_: Network(TinyNetwork(), 64))


def test_the_methods_are_those_of_table_1_in_its_order():
    names = [method.name for method in METHODS.values()]
    left_to_scripts = {"StairIQA", "BAID", "MA-AGIQA"}
    assert names == [name for name in PAPER_METHODS if name not in left_to_scripts]
    assert TRAINABLE == ("hyperiqa", "maniqa", "dbcnn", "musiq")


def test_predictions_and_the_table_have_every_image(baselines, methods, tested, tmp_path):
    done = baselines("--methods", "niqe,hyperiqa,musiq")
    assert done.exit_code == 0, done.output
    frame = read_predictions(tmp_path / "out" / "niqe.csv")
    assert list(frame["image"]) == [image.name for image in tested]
    own = [Contrast().score(scoring.read_rgb(image)) for image in tested]
    assert frame["score"].tolist() == pytest.approx([-value for value in own])
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    niqe, hyperiqa = document["results"]
    assert niqe["count"] == TESTED
    assert niqe["srcc"] == pytest.approx(stats.spearmanr(frame["mos"], frame["score"]).statistic)
    assert niqe["srcc"] > 0.8
    assert niqe["paper"]["srcc"] == 0.5236
    assert niqe["notes"] == ["contrast 1.0."]
    # The paper trains HyperIQA: its number stands only next to a trained one.
    assert (hyperiqa["name"], hyperiqa["paper"]) == ("HyperIQA (published weights)", None)
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in done.output
    assert "NIQE, paper Table 1" in report
    assert "Left out:\n\n- MUSIQ (published weights): pyiqa is not installed" in done.output or (
        importlib.util.find_spec("pyiqa") is not None
    )


def test_a_finished_method_is_not_run_again(baselines, methods, tmp_path):
    assert baselines("--methods", "niqe").exit_code == 0
    path = tmp_path / "out" / "niqe.csv"
    frame = read_predictions(path)
    frame["score"] = np.arange(len(frame), dtype=float)  # a second run would not give these
    write_predictions(frame, path)
    assert baselines("--methods", "niqe").exit_code == 0
    assert read_predictions(path)["score"].tolist() == list(range(TESTED))


def test_training_by_the_recipe_ends_with_the_best_epoch(baselines, methods, tmp_path):
    assert baselines("--methods", "hyperiqa").exit_code == 0
    trained = baselines("--methods", "hyperiqa", "--train")
    assert trained.exit_code == 0, trained.output
    output = tmp_path / "out"
    document = json.loads((output / "metrics.json").read_text())
    assert [result["name"] for result in document["results"]] == [
        "HyperIQA (published weights)",
        "HyperIQA",
    ]
    assert document["results"][1]["paper"]["srcc"] == 0.8509
    frame = read_predictions(output / "hyperiqa-trained.csv")
    assert len(frame) == TESTED
    start = TinyNetwork().layer.bias.item()
    assert abs(frame["score"].mean() - 2.5) < abs(start - 2.5)
    assert (output / "hyperiqa.safetensors").is_file()
    assert "trained here" in trained.output


def test_a_network_that_was_trained_otherwise_is_trained_again(baselines, methods, tmp_path):
    output, options = tmp_path / "out", ("--methods", "hyperiqa", "--train")

    def predictions(*more: str) -> str:
        assert baselines(*options, *more).exit_code == 0
        return (output / "hyperiqa-trained.csv").read_text()

    first = predictions()
    weights = (output / "hyperiqa.safetensors").stat().st_mtime_ns
    assert predictions() == first
    assert (output / "hyperiqa.safetensors").stat().st_mtime_ns == weights
    settings = predictions("--set", "optimization.learning_rate=0.02")
    table = (tmp_path / "data.csv").read_text()
    (tmp_path / "data.csv").write_text(table.replace(",0.5,", ",0.55,"))
    assert len({first, settings, predictions()}) == 3


def test_a_run_that_ends_before_its_predictions_is_run_again(
    baselines, methods, monkeypatch, tmp_path
):
    path, options = tmp_path / "out" / "hyperiqa-trained.csv", ["--methods", "hyperiqa", "--train"]
    assert baselines(*options).exit_code == 0
    first = path.read_text()
    options += ["--set", "optimization.learning_rate=0.02"]
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "write_predictions", Mock(side_effect=KeyboardInterrupt))
        assert baselines(*options).exit_code == 1
    assert baselines(*options).exit_code == 0
    assert path.read_text() != first


def test_methods_are_not_averaged_as_if_they_were_seeds(baselines, methods, monkeypatch, tmp_path):
    twin = Method("dbcnn", "DBCNN", trained=True)
    monkeypatch.setitem(comparison.METHODS, "dbcnn", twin)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    settings["data"]["name"] = "AIGCQA-20k"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings))
    options = ("--train", "--test-config", tmp_path / "other.yaml")
    done = baselines("--methods", "hyperiqa,dbcnn", *options)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(document["results"]) == 2
    assert "mean" not in document
    assert "mean ±" not in done.output


def test_a_trained_network_is_tested_on_another_data_set_too(baselines, methods, tmp_path):
    """Table 2: trained once, then scored on the images of --test-config."""
    assert baselines("--methods", "hyperiqa", "--train").exit_code == 0
    output = tmp_path / "out"
    weights = (output / "hyperiqa.safetensors").stat().st_mtime_ns
    own = (output / "hyperiqa-trained.csv").read_text()
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    settings["data"]["name"] = "AIGCQA-20k"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings))
    options = ("--methods", "hyperiqa", "--train", "--test-config", tmp_path / "other.yaml")
    done = baselines(*map(str, options))
    assert done.exit_code == 0, done.output
    assert (output / "hyperiqa.safetensors").stat().st_mtime_ns == weights
    assert (output / "hyperiqa-trained.csv").read_text() == own
    assert (output / "hyperiqa-trained-on-AIGCQA_20k.csv").read_text() == own
    assert "HyperIQA, paper Table 2" in done.output


def test_an_image_that_cannot_be_measured_is_named(baselines, methods, tested, tmp_path):
    cv2.imwrite(str(tested[2].path), np.full((64, 64, 3), 128, np.uint8))
    done = baselines("--methods", "niqe")
    assert done.exit_code == 1
    assert "No method could be measured" in done.output
    assert f"NIQE: {tested[2].name}: this image is flat." in done.output
    assert not (tmp_path / "out" / "niqe.csv").exists()


def test_predictions_of_other_models_stand_in_the_same_table(baselines, methods, tested, tmp_path):
    frame = build_predictions(tested, [image.mos for image in tested])
    path = write_predictions(frame, tmp_path / "stairiqa.csv")
    done = baselines("--methods", "niqe", "--predictions", f"StairIQA={path}")
    assert done.exit_code == 0, done.output
    assert "StairIQA, paper Table 1" in done.output
    fewer = write_predictions(frame.iloc[1:], tmp_path / "fewer.csv")
    refused = baselines("--methods", "niqe", "--predictions", f"StairIQA={fewer}")
    assert refused.exit_code == 1
    assert "has no row for 1 of the 12 images" in refused.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--methods", "brisk"], 1, "no method 'brisk'"),
        (["--predictions", "mine"], 2, "write NAME=FILE"),
    ],
)
def test_wrong_options_are_explained(baselines, arguments, code, message):
    done = baselines(*arguments)
    assert done.exit_code == code
    assert message in done.output


def test_a_corrupt_image_is_named(tested):
    tested[0].path.write_bytes(b"no image")
    with pytest.raises(DataError, match=tested[0].name):
        scoring.read_rgb(tested[0])


def test_views_of_a_training_are_crops_drawn_from_the_generator():
    network = Network(TinyNetwork(), 32)
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    first, again, other = (network.view(rgb, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert network.view(rgb).shape == (3, 40, 50)
    assert network.view(rgb[:10]).shape == (3, 32, 160)


@needs_brisque
def test_brisque_orders_degraded_images(baselines, tested, tmp_path):
    done = baselines("--methods", "brisque")
    assert done.exit_code == 0, done.output
    frame = read_predictions(tmp_path / "out" / "brisque.csv")
    assert stats.spearmanr(frame["mos"], frame["score"]).statistic > 0.8
    flat = types.SimpleNamespace(name="flat.png", path=tmp_path / "flat.png")
    cv2.imwrite(str(flat.path), np.full((64, 64, 3), 128, np.uint8))
    with pytest.raises(DataError, match=r"flat\.png: BRISQUE cannot measure"):
        scoring.score_images(scoring.load("brisque", Options()), [flat], METHODS["brisque"])


def test_q_align_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"q-future/one-align .*hf download"):
        scoring.load("qalign", Options())
