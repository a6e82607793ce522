"""What deploy/README.md and docs/scale.md name exists, and a number of them is computed again."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ("deploy/README.md", "docs/scale.md")
FOLDERS = ("deploy/", "client/", "tests/", "docs/", "export/", "training/")


@pytest.mark.parametrize("doc", DOCS)
def test_files_that_are_named_exist(doc):
    text = (ROOT / doc).read_text()
    words = re.findall(r"[\w./-]+", text)
    named = {w.rstrip("./") for w in words if w.startswith(FOLDERS)}
    assert len(named) >= 2
    for path in named:
        assert (ROOT / path).exists(), f"{doc}: {path}"
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert ((ROOT / doc).parent / link).exists(), f"{doc}: {link}"
    for part in re.findall(r"`(components/[\w-]+)`", text):
        assert (ROOT / "deploy" / "kubernetes" / part / "kustomization.yaml").is_file(), part


@pytest.mark.parametrize("doc", DOCS)
def test_tasks_that_are_named_exist(doc):
    tasks = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)", (ROOT / doc).read_text())) <= set(tasks)


def test_metrics_that_are_named_are_those_that_are_counted():
    module = (ROOT / "training" / "ma_agiqa" / "serving" / "metrics.py").read_text()
    counted = set(re.findall(r'"(ma_agiqa_\w+)": ', module))
    text = (ROOT / "deploy" / "README.md").read_text()
    assert set(re.findall(r"`(ma_agiqa_\w+)", text)) == counted


def test_the_variables_of_the_start_script_are_those_that_are_named():
    script = (ROOT / "deploy" / "docker" / "serve.sh").read_text()
    text = (ROOT / "deploy" / "README.md").read_text()
    listed = set(re.findall(r"^# ([A-Z][A-Z_]+)[ =]", script, re.MULTILINE))
    for name in (
        "EXPLAIN",
        "MA_AGIQA_ADMIN_KEY",
        "MA_AGIQA_CORES",
        "SHM_PREFIX",
        "DRAIN_S",
        "WATCH_S",
        "TRACE_URL",
        "LOG_FORMAT",
        "MA_AGIQA_REQUEST_LOG",
    ):
        assert name in listed
        assert f"`{name}" in text


def test_the_simulated_wait_is_that_of_the_page():
    day = ["--fixed-ms", "0", "--image-ms", "191.8", "--night", "1", "--peak", "10"]
    scaling = ["--queue", "8", "--busy", "0.7"]
    command = [sys.executable, ROOT / "deploy" / "kubernetes" / "simulate.py", "day"]
    done = subprocess.run([*command, *day, *scaling], capture_output=True, text=True, check=True)
    assert "p99 0.572 s" in done.stdout
    assert "0.572 s" in (ROOT / "docs" / "scale.md").read_text()
