"""From a table of images to served scores: the commands one after another, as a team would."""

from pathlib import Path

import click
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from embedded.server import EmbeddedTriton
from exporter import commands as export
from ma_agiqa import __main__ as training
from ma_agiqa.train import calibrate
from ma_agiqa_client import Scorer
from support.generated_agiqa_3k import write_tree

ROOT = Path(__file__).resolve().parents[2]


def run(program: click.Command, *words: str) -> str:
    done = CliRunner().invoke(program, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working directory with eighty generated images under AGIQA-3k's names."""
    folder = tmp_path_factory.mktemp("team")
    write_tree(folder / "data" / "agiqa_3k", 80)
    settings = yaml.safe_load((ROOT / "training/configs/agiqa_3k_small.yaml").read_text())
    settings["data"]["name"] = "AGIQA-3k"
    settings["split"]["validation"] = 0.65  # 52 images, enough to calibrate on
    settings["optimization"]["batch_size"] = 4  # 12 images to train on
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.mark.slow
def test_a_table_becomes_a_served_scorer(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(calibrate, "_FOREIGN", 20)  # a fifth of the usual pictures
    config = ("--config", "config.yaml")
    checkpoint = ("--checkpoint", "runs/agiqa_3k_small")
    assert "0 problems" in run(training.main, "datasets", "check", *config)
    assert "80 new" in run(training.main, "features", *config)
    assert '"count": 16' in run(training.main, "train", *config)
    evaluated = run(training.main, "evaluate", *checkpoint, "--output", "runs/evaluation")
    assert "paper Table 1" in evaluated
    assert "coverage" in evaluated
    run(export.main, *checkpoint, "--repository", "runs/repository")
    expected = pd.read_csv(folder / "runs" / "evaluation" / "predictions.csv")
    images = folder / "data" / "agiqa_3k" / "images"
    with (
        EmbeddedTriton(folder / "runs" / "repository", free_ports=True) as server,
        Scorer(server.grpc_url) as scorer,
    ):
        assert scorer.model().dataset == "AGIQA-3k"
        calibration = scorer.model().calibration
        assert calibration.record["count"] == 52
        for row in expected.itertuples():
            score = scorer.score(images / row.image)
            # The features were kept in float16.
            assert score.mos == pytest.approx(row.score, abs=5e-3)
            width = row.interval_high - row.interval_low
            assert 2 * calibration.reach * score.deviation == pytest.approx(width, rel=0.02)
            assert 0 <= score.familiarity <= 1
