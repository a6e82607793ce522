"""From a table of images to served scores: the commands one after another, as a team would."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from embedded.server import EmbeddedTriton
from ma_agiqa_client import Scorer
from support.generated_agiqa_3k import write_tree

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working directory with eighty generated images under AGIQA-3k's names."""
    folder = tmp_path_factory.mktemp("team")
    write_tree(folder / "data" / "agiqa_3k", 80)
    settings = yaml.safe_load((ROOT / "training/configs/agiqa_3k_small.yaml").read_text())
    settings["data"]["name"] = "AGIQA-3k"
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_a_table_becomes_a_served_scorer(folder):
    config = ("--config", "config.yaml")
    assert "0 problems" in run(folder, "-m", "ma_agiqa", "datasets", "check", *config)
    assert "80 new" in run(folder, "-m", "ma_agiqa", "features", *config)
    assert '"count": 16' in run(folder, "-m", "ma_agiqa", "train", *config)
    evaluate = ("-m", "ma_agiqa", "evaluate", "--checkpoint", "runs/agiqa_3k_small")
    assert "paper Table 1" in run(folder, *evaluate, "--output", "runs/evaluation")
    export = ("--checkpoint", "runs/agiqa_3k_small", "--repository", "runs/repository")
    run(folder, str(ROOT / "export" / "to_triton.py"), *export)
    expected = pd.read_csv(folder / "runs" / "evaluation" / "predictions.csv")
    images = folder / "data" / "agiqa_3k" / "images"
    with (
        EmbeddedTriton(folder / "runs" / "repository", free_ports=True) as server,
        Scorer(server.grpc_url) as scorer,
    ):
        assert scorer.model().dataset == "AGIQA-3k"
        for name, score in zip(expected["image"], expected["score"], strict=True):
            # The features were kept in float16.
            assert scorer.score(images / name).mos == pytest.approx(score, abs=5e-3)
