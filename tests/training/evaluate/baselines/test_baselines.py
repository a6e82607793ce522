"""The comparison as a whole: real scores where code is at hand, a named gap where it is not."""

import csv
import importlib.util
import json

import cv2
import numpy as np
import pytest
import skimage.data
import torch
import yaml
from click.testing import CliRunner
from ma_agiqa.evaluate.baselines.loading import Options, load
from scipy import stats

from ma_agiqa.commands.baselines import main
from ma_agiqa.data import make_split, read_images
from ma_agiqa.errors import ConfigError, DataError, DownloadError
from ma_agiqa.evaluate.baselines import comparison, handcrafted, methods, results, scoring
from ma_agiqa.evaluate.paper_results import COMPARISON, METHODS, OURS
from ma_agiqa.evaluate.predictions import build_predictions, read_predictions, write_predictions
from ma_agiqa.metrics.agreement import evaluate
from ma_agiqa.train.config import load_config

needs_brisque = pytest.mark.skipif(
    importlib.util.find_spec("brisque") is None,
    reason="the package brisque is not installed (extra baselines)",
)

COUNT, TESTED = 60, 12


@pytest.fixture
def settings(tmp_path):
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
        rows.append({"image": f"{index:02}.png", "mos": round(4.5 - 4 * badness, 3), "model": "m"})
    with open(tmp_path / "data.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "mos", "model"])
        writer.writeheader()
        writer.writerows(rows)
    return {
        "name": "baselines",
        "preset": "demo",
        "embedder": "demo",
        "output": str(tmp_path / "run"),
        "seed": 1,
        "data": {"name": "AGIQA-3k", "csv": str(tmp_path / "data.csv")},
        "split": {"kind": "paper"},
        "optimization": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01},
    }


@pytest.fixture
def config_file(settings, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def tested(config_file):
    config = load_config(config_file)
    return make_split(read_images(config.data), config.split).test


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_every_method_of_table_1_is_there_in_its_order():
    names = [method.name for method in methods.METHODS.values()]
    assert names == [name for name in METHODS if name != OURS]
    trained = {methods.METHODS[key].name for key in methods.TRAINABLE}
    assert trained == {"HyperIQA", "MANIQA", "DBCNN", "StairIQA", "BAID", "MUSIQ"}


@needs_brisque
def test_brisque_orders_degraded_images_and_its_sign_is_turned(config_file, tested, tmp_path):
    output = tmp_path / "out"
    done = run("--config", config_file, "--methods", "brisque", "--output", output)
    assert done.exit_code == 0, done.output
    frame = read_predictions(output / "predictions" / "brisque.csv")
    assert list(frame["image"]) == [image.name for image in tested]
    assert len(frame) == TESTED  # every image of the part
    own = [load("brisque", Options()).score(scoring.read_rgb(image)) for image in tested]
    assert frame["score"].tolist() == pytest.approx([-value for value in own], abs=1e-9)
    assert stats.spearmanr(frame["mos"], frame["score"]).statistic > 0.8
    row = next(csv.DictReader((output / "baselines.csv").open()))
    assert row["use"] == "zero-shot"
    assert int(row["count"]) == TESTED
    assert float(row["srcc"]) == pytest.approx(
        stats.spearmanr(frame["mos"], frame["score"]).statistic, abs=1e-12
    )
    assert float(row["paper_AGIQA-3k_srcc"]) == COMPARISON["AGIQA-3k"]["BRISQUE"].srcc
    assert float(row["paper_AIGCQA-20k_rmse"]) == COMPARISON["AIGCQA-20k"]["BRISQUE"].rmse


@needs_brisque
def test_a_finished_method_is_not_run_again(config_file, tmp_path):
    output = tmp_path / "out"
    arguments = ("--config", config_file, "--methods", "brisque", "--output", output)
    assert run(*arguments).exit_code == 0
    csv_file = output / "predictions" / "brisque.csv"
    frame = read_predictions(csv_file)
    frame["score"] = np.arange(len(frame), dtype=float)  # a second run would not give these
    write_predictions(frame, csv_file)
    assert run(*arguments).exit_code == 0
    assert read_predictions(csv_file)["score"].tolist() == list(range(TESTED))


@needs_brisque
def test_images_shared_out_to_processes_give_the_same_scores(config_file, monkeypatch):
    monkeypatch.setattr(scoring, "_FEW", 1)
    monkeypatch.setattr(scoring.os, "sched_getaffinity", lambda _: {0, 1})
    config = load_config(config_file)
    images = read_images(config.data)[:6]
    scorer = handcrafted.BrisquePackage()
    alone = scoring.score_images(scorer, images)
    shared = scoring.score_images(scorer, images, handcrafted.BrisquePackage)
    assert shared == pytest.approx(alone, rel=1e-9)  # other threads, other rounding


@needs_brisque
def test_an_image_that_cannot_be_measured_is_named(config_file, tmp_path, tested):
    cv2.imwrite(str(tested[2].path), np.full((64, 64, 3), 128, np.uint8))
    done = run("--config", config_file, "--methods", "brisque", "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert tested[2].name in done.output
    assert not (tmp_path / "out" / "predictions" / "brisque.csv").exists()


def test_methods_without_code_or_weights_are_left_out_and_named(config_file, tested, tmp_path):
    own = write_predictions(
        build_predictions(tested, [image.mos for image in tested]), tmp_path / "own.csv"
    )
    output = tmp_path / "out"
    done = run(
        *("--config", config_file, "--methods", "baid,stairiqa", "--output", output),
        *("--predictions", f"{OURS}={own}"),
    )
    assert done.exit_code == 0, done.output
    text = (output / "baselines.md").read_text()
    assert text in done.output
    table, _, left_out = text.partition("Left out:")
    assert "| BAID |" not in table
    assert "**BAID** (zero-shot): BAID runs on a checkout" in left_out
    assert "give --stairiqa FOLDER and --stairiqa-weights FILE" in left_out
    assert f"| {OURS} | given | 1.0000 | 1.0000 | 1.0000 | 0.0000 | own.csv | 0.8939 /" in table
    rows = {row["method"]: row for row in csv.DictReader((output / "baselines.csv").open())}
    assert rows["BAID"]["srcc"] == ""
    assert "checkout" in rows["BAID"]["left_out"]


def test_a_run_in_which_nothing_could_be_measured_fails_with_the_reasons(config_file, tmp_path):
    done = run("--config", config_file, "--methods", "baid", "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert "No method could be measured" in done.output
    assert "--baid FOLDER" in done.output


def test_predictions_of_other_images_are_refused(config_file, tested, tmp_path):
    frame = build_predictions(tested[1:], [1.0] * (TESTED - 1))
    path = write_predictions(frame, tmp_path / "own.csv")
    done = run(
        *("--config", config_file, "--methods", "baid", "--output", tmp_path / "out"),
        *("--predictions", f"mine={path}"),
    )
    assert done.exit_code == 1
    assert tested[0].name in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "brisk"], "no method 'brisk'"),
        (["--predictions", "mine"], "write NAME=FILE"),
    ],
)
def test_wrong_options_are_explained(config_file, tmp_path, arguments, message):
    done = run("--config", config_file, "--output", tmp_path / "out", *arguments)
    assert done.exit_code == 1
    assert message in done.output


def test_the_logistic_fit_finds_its_optimum_on_any_scale():
    rng = np.random.default_rng(5)
    mos = rng.uniform(0.5, 4.5, 300)
    scores = 1 / (1 + np.exp(-(mos - 2.5) / 0.6)) + rng.normal(0, 0.02, 300)
    near = comparison.measure(mos, scores)
    far = comparison.measure(mos, 900 * scores - 4000)
    assert far.plcc == pytest.approx(near.plcc, abs=1e-6)
    assert far.rmse == pytest.approx(near.rmse, abs=1e-6)
    assert far.srcc == pytest.approx(near.srcc, abs=1e-12)
    assert near.plcc > 0.97
    plain = evaluate(mos, scores)
    assert near.plcc >= plain.plcc - 1e-6


def test_a_corrupt_image_is_named(tested):
    tested[0].path.write_bytes(b"no image")
    with pytest.raises(DataError, match=tested[0].name):
        scoring.read_rgb(tested[0])


TINY_STAIRIQA = """
from torch import nn

class resnet50(nn.Module):
    def __init__(self, pretrained=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 5, 4)
        self.quality = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))

    def forward(self, x):
        return self.quality(self.stem(x).relu().mean((2, 3)))
"""


@pytest.fixture
def tiny_stairiqa(tmp_path):
    models = tmp_path / "StairIQA" / "models"
    models.mkdir(parents=True)
    (models / "stairIQA_resnet.py").write_text(TINY_STAIRIQA)
    shapes = {"stem.weight": (4, 3, 5, 5), "stem.bias": (4,)}
    shapes |= {"quality.0.weight": (4, 4), "quality.0.bias": (4,)}
    shapes |= {"quality.1.weight": (1, 4), "quality.1.bias": (1,)}
    generator = torch.Generator().manual_seed(3)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "first.pth")
    return ["--stairiqa", models.parent, "--stairiqa-weights", tmp_path / "first.pth"]


def test_training_by_the_recipe_ends_with_the_best_epoch(config_file, tiny_stairiqa, tmp_path):
    output = tmp_path / "out"
    arguments = ("--config", config_file, "--methods", "stairiqa", "--output", output)
    device = ("--device", "cpu")
    zero_shot = run(*arguments, *device, *tiny_stairiqa)
    assert zero_shot.exit_code == 0, zero_shot.output
    trained = run(*arguments, *device, *tiny_stairiqa, "--train")
    assert trained.exit_code == 0, trained.output
    rows = list(csv.DictReader((output / "baselines.csv").open()))
    assert [row["use"] for row in rows] == ["zero-shot", "trained"]
    assert "trained here from first.pth" in rows[1]["origin"]
    assert rows[0]["rmse"] != rows[1]["rmse"]
    assert int(rows[1]["count"]) == TESTED
    frame = read_predictions(output / "predictions" / "stairiqa-trained.csv")
    before = read_predictions(output / "predictions" / "stairiqa.csv")
    error = ((frame["score"] - frame["mos"]) ** 2).mean()
    assert error < ((before["score"] - before["mos"]) ** 2).mean()
    assert (output / "weights" / "stairiqa.safetensors").is_file()
    description = json.loads((output / "predictions" / "stairiqa-trained.json").read_text())
    assert description["kind"] == "trained"
    again = run(*arguments, *device)  # finished: the checkout is not needed any more
    assert [row["use"] for row in csv.DictReader((output / "baselines.csv").open())] == [
        "zero-shot",
        "trained",
    ], again.output


def test_q_align_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"q-future/one-align .*hf download"):
        load("qalign", Options())


def test_an_unknown_database_of_stairiqa_is_refused():
    with pytest.raises(ConfigError, match="choose one of"):
        Options(stairiqa_database="koniq")


def test_a_table_cell_keeps_its_column():
    outcome = comparison.Outcome("a|b", "given", "x", evaluate(range(9), range(9)))
    line = results.to_markdown([outcome], "set", "test").splitlines()[-1]
    assert "a\\|b" in line
