"""The script for GPU machines: that it is one, and what it carries there."""

import subprocess
import sys
from pathlib import Path

import pytest

from gpu_check.random_repository import write_random
from ma_agiqa.checkpoints import load_scorer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def check(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, DEPLOY / "gpu_check" / "check.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_a_part_that_fails_or_takes_too_long_loses_no_other(tmp_path):
    options = ["--device", "cpu", "--preset", "demo", "--output", tmp_path]
    (tmp_path / "rows.json").write_text('{"authors": [{"what": "authors", "note": "before"}]}')
    done = check("tests", *options, "--limit-s", 0.001)
    assert done.returncode == 1
    assert "| tests |  |  |  |  |  |  | failed: not done after 0.001 s |" in done.stdout
    assert "| authors |  |  |  |  |  |  | before |" in (tmp_path / "table.md").read_text()
    assert "| images/s served | >= 150 |  | not measured |" in done.stdout


def test_an_unknown_part_is_refused():
    assert "there is no part embeder; the parts are weights, embedder" in check("embeder").stderr


@pytest.mark.slow
def test_it_runs_to_its_end_on_a_cpu(tmp_path):
    options = ["--device", "cpu", "--preset", "demo", "--batches", 1, 8, "--seconds", 1]
    done = check("embedder", "scorer", "served", *options, "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    timed = [row[0] for row in rows if len(row) == 8 and row[2].replace(".", "").isdigit()]
    dtypes = [f"| scorer {dtype}" for dtype in ("exact", "float32", "bfloat16", "float16")]
    networks = [name for name in ["| embedder float32", *dtypes] for _ in range(2)]
    assert timed == [*networks, *["| served"] * 4]


def test_the_embedded_triton_is_carried_and_torch_is_not():
    command = [sys.executable, DEPLOY / "gpu_check" / "needed_packages.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pins = dict(line.split("==") for line in done.stdout.splitlines())
    assert pins["nvidia-pytriton"] == "0.7.0"
    assert pins["numpy"].startswith("1.")
    assert {"transformers", "timm", "tritonclient", "safetensors", "pytest"} <= pins.keys()
    carried_by_the_machine = {"torch", "torchvision", "triton"} | {
        name for name in pins if name.startswith(("nvidia-cu", "nvidia-nccl", "cuda-"))
    }
    assert not carried_by_the_machine & pins.keys()


@pytest.mark.slow
def test_a_random_repository_comes_with_the_checkpoint_that_it_serves(tmp_path):
    write_random("demo", False, "float32", tmp_path)
    _, card = load_scorer(tmp_path / "checkpoint")
    assert card.name == "random-demo"
    assert card.embedder == {"source": "demo"}
    assert (tmp_path / "repository" / "maniqa_moe" / "1" / "model.pt").is_file()
