"""The two distributions: one version, and the server's without what only training needs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[1]
TRAINING_ONLY = ["timm", "torchvision", "click", "pandas", "scipy", "matplotlib"]
SERVED = """
import importlib.util, pathlib, sys, types
sys.modules.update(dict.fromkeys({absent}))
sys.modules["triton_python_backend_utils"] = types.ModuleType("pb_utils")
for path in {adapters}:
    spec = importlib.util.spec_from_file_location("model", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
import ma_agiqa
print(pathlib.Path(ma_agiqa.__file__).parents[1])
"""


@pytest.mark.parametrize("folder", ["client", "training"])
def test_both_distributions_have_the_version_of_one_file(folder):
    settings = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    file = ROOT / folder / settings["tool"]["setuptools"]["dynamic"]["version"]["file"]
    assert file.resolve() == ROOT / "VERSION"


def test_extras_that_are_named_exist():
    settings = tomllib.loads((ROOT / "training" / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = ("*.md", "*.txt", "Makefile", "*/*.md", "deploy/docker/*", "training/**/*.py")
    files = [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    named = {
        name for names in re.findall(r"training\[([\w,]+)\]", text) for name in names.split(",")
    }
    assert {"scorer", "train"} <= named <= set(settings["project"]["optional-dependencies"])


@pytest.mark.slow
def test_the_package_of_the_server_serves_without_the_libraries_of_training(tmp_path):
    """Without the network: the package alone; the absence of libraries is simulated."""
    shutil.copytree(ROOT / "training" / "ma_agiqa", tmp_path / "training" / "ma_agiqa")
    for name in ("VERSION", "pyproject.toml"):  # a build writes next to them
        shutil.copy(ROOT / "training" / name, tmp_path / "training")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    target = tmp_path / "installed"
    options = ["--no-build-isolation", "--target", target, tmp_path / "training"]
    subprocess.run([*pip, *options], check=True)
    version = (ROOT / "VERSION").read_text(encoding="utf-8").strip()
    assert (target / f"ma_agiqa-{version}.dist-info").is_dir()
    adapters = list(map(str, sorted((ROOT / "model_repository").glob("*/1/model.py"))))
    code = SERVED.format(absent=TRAINING_ONLY, adapters=adapters)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(target)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == target
