"""The script for GPU machines: that it is one, and what it carries there."""

import subprocess
import sys
from pathlib import Path

import pytest

from ma_agiqa.checkpoints import load_scorer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_the_script_is_sound():
    script = DEPLOY / "gpu_check" / "run.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o111


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
    script = DEPLOY / "gpu_check" / "random_repository.py"
    options = ["--preset", "demo", "--dtype", "float32", "--output", tmp_path]
    subprocess.run([sys.executable, script, *options], capture_output=True, check=True)
    _, card = load_scorer(tmp_path / "checkpoint")
    assert card.name == "random-demo"
    assert card.embedder == {"source": "demo"}
    assert (tmp_path / "repository" / "maniqa_moe" / "1" / "model.pt").is_file()
