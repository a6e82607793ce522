"""Evaluation: every image scored, measured in every way, and told apart from what it is not."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner

from ma_agiqa.checkpoints import ModelCard, load_scorer, save_checkpoint
from ma_agiqa.commands.evaluate import main
from ma_agiqa.data import PARTS, Subset, make_split, read_images
from ma_agiqa.errors import DataError
from ma_agiqa.evaluate import measure, measure_generators, measure_subsets
from ma_agiqa.evaluate.predictions import read_predictions
from ma_agiqa.files import json_text
from ma_agiqa.metrics.agreement import evaluate
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.settings import to_mapping
from ma_agiqa.train.config import load_config
from ma_agiqa.train.training import run_features

COUNT = 80  # images: 56 to train on, 8 to validate, 16 to test
DEMO = Path(__file__).resolve().parents[3] / "training" / "checkpoints" / "demo"
FAST = ("--resamples", "20")


@pytest.fixture
def place(small_run):
    """The small run's folder: its data, config.yaml and the checkpoint `run`."""
    return small_run.folder


def save_run(folder, config, seed=0, **card):
    """A checkpoint as training writes it, without the training."""
    images = read_images(config.data)
    split = make_split(images, config.split)
    torch.manual_seed(seed)
    values = {
        "name": config.name,
        "preset": "demo",
        "dataset": config.data.name,
        "mos_min": 0.0,
        "mos_max": 5.0,
        "mos_quantiles": tuple(np.linspace(0, 5, 101).tolist()),
        "created": "2026-01-01T00:00:00+00:00",
        "embedder": run_features(config, images).embedder,
        "training": to_mapping(config),
    }
    card = ModelCard(**{**values, **card})
    return save_checkpoint(folder, MAAGIQA(config.scorer_config()), card, split.rows())


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments), *FAST])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("part", [*PARTS, "all"])
def test_every_image_of_a_part_is_scored_as_alone(place, tmp_path, part):
    run("--checkpoint", place / "run", "--part", part, "--batch-size", 5, "--output", tmp_path)
    frame = read_predictions(tmp_path / "predictions.csv")
    config = load_config(place / "config.yaml")
    images = read_images(config.data)
    split = make_split(images, config.split)
    members = images if part == "all" else getattr(split, part)
    assert frame["image"].tolist() == [image.name for image in members]
    assert frame["mos"].tolist() == [image.mos for image in members]
    assert len(frame) == {"train": 56, "validation": 8, "test": 16, "all": COUNT}[part]
    assert json.loads((tmp_path / "metrics.json").read_text())["results"][0]["count"] == len(frame)

    scorer, _ = load_scorer(place / "run")
    alone = run_features(config, members[-1:]).read([0])
    with torch.inference_mode():
        output = scorer(
            torch.from_numpy(alone["quality_view"]),
            torch.from_numpy(alone["semantic"].astype(np.float32)),
            torch.from_numpy(alone["coherence"].astype(np.float32)),
        )
    assert frame["score"].iloc[-1] == pytest.approx(output.score.item(), abs=1e-5)
    gates = frame[["gate_semantic", "gate_coherence", "gate_quality"]].iloc[-1]
    np.testing.assert_allclose(gates.to_numpy(float), output.gate[0].numpy(), atol=1e-5)


def test_report_and_files_say_the_same_next_to_the_papers_number(place, tmp_path):
    printed = run("--checkpoint", place / "run", "--part", "test", "--output", tmp_path / "new")
    report = (tmp_path / "new" / "report.md").read_text()
    assert printed.startswith(report)
    frame = read_predictions(tmp_path / "new" / "predictions.csv")
    expected = evaluate(frame["mos"], frame["score"])
    (result,) = json.loads((tmp_path / "new" / "metrics.json").read_text())["results"]
    for name in ("srcc", "plcc", "krcc", "rmse", "plcc_raw"):
        assert result[name] == pytest.approx(getattr(expected, name), abs=1e-12)
        low, high = result["intervals"][name]
        assert low <= high
    assert f"{expected.srcc:.4f} [" in report
    assert "# Trained on AGIQA-3k, tested on the test part of AGIQA-3k" in report
    assert "MA-AGIQA, paper Table 1" in report
    assert "0.8939" in report
    assert "## By generator" in report
    assert "With fewer than 200 images the interval of RMSE is too narrow." in report
    assert set(result["generators"]) == set(frame["generator"])
    assert sum(group["count"] for group in result["generators"].values()) == len(frame)


def test_the_papers_number_stands_only_next_to_the_papers_model(place, tmp_path):
    config = load_config(place / "config.yaml", {"scorer.inputs": "[quality]"})
    printed = run("--checkpoint", save_run(tmp_path / "quality", config))
    assert "| small" in printed
    assert "paper" not in printed


def test_another_data_set_is_a_direction_of_table_2(place, tmp_path):
    values = yaml.safe_load((place / "config.yaml").read_text())
    values["data"]["name"] = "AIGCQA-20k"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(values))
    printed = run("--checkpoint", place / "run", "--config", tmp_path / "other.yaml")
    assert "# Trained on AGIQA-3k, tested on the test part of AIGCQA-20k" in printed
    assert "MA-AGIQA, paper Table 2" in printed
    assert "0.7722" in printed
    assert "too good" not in printed


def test_images_trained_on_are_counted(place):
    printed = run(
        "--checkpoint", place / "run", "--config", place / "config.yaml", "--set", "split.seed=3"
    )
    assert "of the 16 images were in the train or validation part of" in printed
    assert "too good" in printed


def test_a_checkpoint_of_the_authors_is_measured_on_the_images_of_a_config(place, monkeypatch):
    """It has no data set of its own; those that it was trained on follow from the paper's split."""
    scorer, card = load_scorer(place / "run")
    theirs = dataclasses.replace(card, training={}, embedder={"source": "demo"})
    monkeypatch.setattr("ma_agiqa.commands.evaluate.load_scorer", lambda _: (scorer, theirs))
    printed = run("--checkpoint", "agiqa.pt", code=1)
    assert "agiqa.pt is a checkpoint without a data set: name one with --config" in printed
    config = ("--config", place / "config.yaml", "--part", "all")
    printed = run("--checkpoint", "agiqa.pt", *config)
    assert "64 of the 80 images were in the train or validation part of agiqa.pt" in printed


def test_the_errors_of_the_scores_themselves_are_shown(place, tmp_path):
    """A fit hides that all scores are off by 2; the raw numbers do not."""
    rng = np.random.default_rng(1)
    mos = rng.uniform(0, 3, 30)
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(30)], "mos": mos, "score": mos + 2})
    frame.to_csv(tmp_path / "off.csv", index=False)
    printed = run("--predictions", f"off={tmp_path / 'off.csv'}", "--output", tmp_path / "out")
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("| off")]
    assert [cell.strip() for cell in rows[1][2:5]] == ["2.0000", "2.0000", "2.0000"]
    (result,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert result["rmse"] < 0.1
    assert result["bias"] == pytest.approx(2)


def test_folds_are_tested_on_their_own_parts_and_averaged(place, tmp_path):
    folders = []
    for fold in range(3):
        config = load_config(
            place / "config.yaml", {"split": f"{{kind: k-fold, folds: 3, fold: {fold}}}"}
        )
        folders.append(save_run(tmp_path / f"fold{fold}", config, seed=fold))
    arguments = [text for folder in folders for text in ("--checkpoint", folder)]
    printed = run(*arguments, "--output", tmp_path / "out")
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [result["name"] for result in document["results"]] == ["fold0", "fold1", "fold2"]
    frames = [read_predictions(tmp_path / "out" / f"predictions-fold{i}.csv") for i in range(3)]
    assert len(set(pd.concat(frames)["image"])) == sum(map(len, frames)) == COUNT
    srcc = [result["srcc"] for result in document["results"]]
    assert document["mean"]["srcc"] == pytest.approx(np.mean(srcc))
    assert document["standard_deviation"]["srcc"] == pytest.approx(np.std(srcc, ddof=1))
    assert f"{np.mean(srcc):.4f} ± {np.std(srcc, ddof=1):.4f}" in printed
    rmse = [result["rmse_raw"] for result in document["results"]]
    assert document["mean"]["rmse_raw"] == pytest.approx(np.mean(rmse))
    assert f"{np.mean(rmse):.4f} ± {np.std(rmse, ddof=1):.4f}" in printed
    assert printed.count("mean ± standard deviation of 3 checkpoints") == 2


def test_checkpoints_of_other_ratings_are_not_compared(place, tmp_path):
    config = load_config(place / "config.yaml", {"data.columns.mos": "mos_align"})
    other = save_run(tmp_path / "align", config)
    printed = run("--checkpoint", place / "run", "--checkpoint", other)
    assert "| run" in printed
    assert "| align" in printed
    assert "Paired differences" not in printed
    assert "mean ± standard deviation" not in printed


def test_the_folder_of_a_checkpoint_is_kept(place):
    printed = run("--checkpoint", place / "run", "--output", place / "run", code=1)
    assert f"{place / 'run'} holds a checkpoint: name another folder with --output." in printed
    assert "results" not in json.loads((place / "run" / "metrics.json").read_text())


def test_every_result_has_a_file_of_its_own(place, tmp_path):
    run("--checkpoint", place / "run", "--output", tmp_path)
    names = ["模型甲", "模型乙", "a b", "a/b"]
    files = [f"--predictions={name}={tmp_path / 'predictions.csv'}" for name in names]
    run(*files, "--output", tmp_path / "all")
    found = {path.name for path in (tmp_path / "all").glob("predictions*")}
    assert found == {f"predictions-{name}.csv" for name in ("模型甲", "模型乙", "a_b", "a_b_")}
    printed = run("--checkpoint", place / "run", files[0].replace("模型甲", "small"), code=1)
    assert "a checkpoint has the name 'small'; give another" in printed


def test_files_of_predictions_stand_in_the_same_table(place, tmp_path):
    run("--checkpoint", place / "run", "--output", tmp_path)
    frame = read_predictions(tmp_path / "predictions.csv")
    theirs = frame[["image", "mos"]].assign(score=frame["mos"] * 20 + 1).iloc[::-1]
    theirs.to_csv(tmp_path / "maniqa.csv", index=False)
    printed = run(
        "--checkpoint", place / "run", "--predictions", f"MANIQA={tmp_path / 'maniqa.csv'}"
    )
    (row,) = [line for line in printed.splitlines() if line.startswith("| MANIQA ")][:1]
    assert "1.0000 [1.000, 1.000]" in row
    assert "MANIQA, paper Table 1" in printed
    alone = run("--predictions", f"mine={tmp_path / 'maniqa.csv'}")
    assert "| mine" in alone
    assert "paper" not in alone
    by_config = run(
        *("--config", place / "config.yaml"),
        *("--predictions", f"MANIQA={tmp_path / 'maniqa.csv'}"),
    )
    assert "0.8618" in by_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[1:], "has no row for 1 of the 16 images to compare"),
        (lambda f: f.replace(f["image"][3], "new.png"), "row 5: new.png is not among the 16"),
        (lambda f: f.assign(mos=f["mos"].where(f.index != 2, 1.5)), "row 4: the MOS of .* is 1.5"),
    ],
)
def test_files_of_other_images_are_refused(place, tmp_path, change, message):
    run("--checkpoint", place / "run", "--output", tmp_path)
    change(read_predictions(tmp_path / "predictions.csv")).to_csv(tmp_path / "b.csv", index=False)
    printed = run("--checkpoint", place / "run", "--predictions", f"b={tmp_path / 'b.csv'}", code=1)
    assert pd.Series([printed]).str.contains(message).all(), printed


def test_a_table_that_changed_since_the_run_is_refused(place, tmp_path):
    table = pd.read_csv(place / "data" / "data.csv")
    table.iloc[:-1].to_csv(tmp_path / "data.csv", index=False)
    printed = run(
        *("--checkpoint", place / "run", "--set", f"data.csv={tmp_path / 'data.csv'}"),
        *("--set", f"data.image_folder={place / 'data' / 'images'}"),
        code=1,
    )
    assert "lists 1 images that are not in the data set's table" in printed
    assert table["name"].iloc[-1] in printed
    assert "The split was saved with the run" in printed


def test_embeddings_of_another_model_are_refused(place, tmp_path):
    config = load_config(place / "config.yaml")
    card = load_scorer(place / "run")[1]
    folder = save_run(
        tmp_path / "run", config, embedder={**card.embedder, "weights_sha256": "0" * 64}
    )
    printed = run("--checkpoint", folder, code=1)
    assert "the hash of its weights is" in printed
    assert f"not {'0' * 64}" in printed


def test_without_the_client_a_url_is_a_clear_error(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ma_agiqa_client", None)
    printed = run("--checkpoint", place / "run", "--url", "localhost:1", code=1)
    assert "--url needs the client, which is not installed" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Give --checkpoint, --url or --predictions"),
        (["--url", "localhost:1"], 1, "--url needs --config or --checkpoint"),
        (["--checkpoint", "none"], 1, "no checkpoint at none"),
        (["--predictions", "a.csv"], 2, "write NAME=FILE"),
        (["--predictions", "a=a.csv", "--predictions", "a=b.csv"], 2, "must differ"),
        (["--predictions", "a=none.csv"], 1, "Cannot read none.csv"),
        (["--checkpoint", str(DEMO), "--set", "split.seed=3"], 1, "--set split.seed has no effect"),
        (["--checkpoint", "x", "--checkpoint", "y", "--url", "h:1"], 1, "at most one --checkpoint"),
    ],
)
def test_wrong_arguments(arguments, code, message):
    assert message in run(*arguments, code=code)


def frame_of(rng, count, generator, prompt=""):
    mos = rng.uniform(0, 5, count)
    return pd.DataFrame(
        {
            "image": [f"{generator}_{prompt}_{i}" for i in range(count)],
            "mos": mos,
            "score": mos + rng.normal(0, 0.5, count),
            "prompt": prompt,
            "generator": generator,
            "group": "",
        }
    )


def test_generators_and_subsets_are_measured_on_their_own():
    rng = np.random.default_rng(0)
    frame = pd.concat(
        [
            frame_of(rng, 40, "LCM_Pixart", "a Digital painting"),
            frame_of(rng, 30, "LCM_Pixart", "a dog"),
            frame_of(rng, 20, "SDXL", "digital dog"),
            frame_of(rng, 3, "DALLE2"),
            frame_of(rng, 7, ""),
        ],
        ignore_index=True,
    ).sample(frac=1, random_state=0, ignore_index=True)
    generators = {group.name: group for group in measure_generators(frame, 20)}
    assert {name: group.count for name, group in generators.items()} == {
        "DALLE2": 3,
        "LCM_Pixart": 70,
        "SDXL": 20,
    }
    assert generators["DALLE2"].measurement is None
    rows = frame[frame["generator"] == "LCM_Pixart"]
    expected = evaluate(rows["mos"], rows["score"])
    assert generators["LCM_Pixart"].measurement.metrics == expected
    subsets = [Subset("both", "digital", "LCM_Pixart"), Subset("words", "digital")]
    both, words = measure_subsets(frame, subsets, 20)
    assert (both.name, both.count, words.count) == ("both", 40, 60)


def test_what_is_not_defined_is_null_in_json():
    frame = frame_of(np.random.default_rng(0), 9, "a").assign(score=2.0)
    values = json.loads(json_text(measure(frame, 20).to_dict()))
    assert values["srcc"] is None
    assert values["intervals"]["srcc"] == [None, None]
    assert values["rmse"] == pytest.approx(frame["mos"].std(ddof=0))
    with pytest.raises(DataError, match="at least 5"):
        measure(frame.iloc[:4])


def test_the_papers_subset_stands_next_to_ours(place, tmp_path):
    values = yaml.safe_load((place / "config.yaml").read_text())
    values["data"]["name"] = "AIGCQA-20k"
    values["data"]["subsets"] = [
        {"name": "Fig. 2", "prompt_contains": "digital", "generator": "LCM_Pixart"}
    ]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(values))
    printed = run("--checkpoint", place / "run", "--config", tmp_path / "other.yaml")
    assert "## By subset" in printed
    assert "MA-AGIQA, paper Fig. 2" in printed
    assert "0.8364" in printed


def test_a_folder_that_cannot_be_written_is_named(place, tmp_path):
    (tmp_path / "taken").write_text("a file")
    printed = run("--checkpoint", place / "run", "--output", tmp_path / "taken", code=1)
    assert f"Cannot write {tmp_path / 'taken' / 'predictions.csv'}" in printed
