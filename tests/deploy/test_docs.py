"""deploy/README.md lists the metrics and the variables that there are."""

import re
from pathlib import Path

import serve

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")


def test_metrics_that_are_named_are_those_that_are_counted():
    module = (ROOT / "training" / "ma_agiqa" / "serving" / "metrics.py").read_text()
    counted = set(re.findall(r'"(ma_agiqa_\w+)": ', module))
    assert set(re.findall(r"`(ma_agiqa_\w+)", README)) == counted


def test_the_variables_of_serve_py_are_those_that_are_listed():
    options = {option.envvar: option.opts[0] for option in serve.main.params if option.envvar}
    table = README.partition("| variable |")[2]
    rows = [line.split(" | ") for line in table.partition("\n\n")[0].splitlines()[2:]]
    listed = [re.findall(r"`([A-Z_]+)", row[0]) for row in rows]
    assert {name for names in listed for name in names} == {*options, "MA_AGIQA_REQUEST_LOG"}
    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text().rpartition("\nENV ")[2]
    for names, row in zip(listed, rows, strict=True):
        assert [options[n] for n in names if n in options] == re.findall(r"`(--[a-z-]+)`", row[1])
        given = re.search(rf"\b{names[-1]}=(\S+)", image)
        assert given is None or given[1] in row[2]
