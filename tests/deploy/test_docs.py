"""What deploy/README.md and docs/scale.md name exists."""

import re
from pathlib import Path

import pytest

import serve

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


def test_the_variables_of_serve_py_are_those_that_are_listed():
    options = {option.envvar: option.opts[0] for option in serve.main.params if option.envvar}
    table = (ROOT / "deploy" / "README.md").read_text().partition("| variable |")[2]
    rows = [line.split(" | ") for line in table.partition("\n\n")[0].splitlines()[2:]]
    listed = [re.findall(r"`([A-Z_]+)", row[0]) for row in rows]
    assert {name for names in listed for name in names} == {*options, "MA_AGIQA_REQUEST_LOG"}
    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text().rpartition("\nENV ")[2]
    for names, row in zip(listed, rows, strict=True):
        assert [options[n] for n in names if n in options] == re.findall(r"`(--[a-z-]+)`", row[1])
        given = re.search(rf"\b{names[-1]}=(\S+)", image)
        assert given is None or given[1] in row[2]
