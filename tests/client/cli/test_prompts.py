"""--prompts: how prompts are found, what is written, and what is kept."""

import csv
import io
import json

import grpc
import pytest
from click.testing import CliRunner

from ma_agiqa_client.cli import _command as cli
from ma_agiqa_client.cli._prompts import read_names, read_table

TABLE = "name,prompt\na.png,a cat\nsub/b.png,\"=1+1, or 'two'\"\nc.png,\n"


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    for number, name in enumerate(("a.png", "sub/b.png", "c.png")):
        file = tmp_path / "imgs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(number).encode())
    (tmp_path / "imgs" / "prompts.csv").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(scripted):
    def run(*arguments):
        return CliRunner().invoke(cli.main, ["imgs", *arguments, "--url", scripted.url])

    return run


def by_image(json_lines):
    records = map(json.loads, json_lines.splitlines())
    return {record["image"]: record for record in records}


def test_json_has_prompt_and_alignment(run):
    result = run("--prompts", "imgs/prompts.csv", "--format", "jsonl")
    assert result.exit_code == 0, result.stderr
    found = by_image(result.stdout)
    assert found["imgs/a.png"]["prompt"] == "a cat"
    assert found["imgs/a.png"]["alignment"] == pytest.approx(0.05)
    assert found["imgs/sub/b.png"]["alignment"] == pytest.approx(0.14)
    assert "alignment" not in found["imgs/c.png"]
    assert "1 images have no prompt, and so no alignment." in result.stderr


def test_what_is_passed_over_is_said(run, images):
    (images / "imgs" / "photo.heic").write_bytes(b"x")
    assert "Passed over: 1 of the kind .heic" in run("--prompts", "imgs/prompts.csv").stderr


def test_csv_has_columns_and_no_formula(run):
    result = run("--prompts", "imgs/prompts.csv", "--format", "csv")
    rows = {row["image"]: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert rows["imgs/sub/b.png"]["prompt"] == "'=1+1, or 'two'"
    assert float(rows["imgs/a.png"]["alignment"]) == pytest.approx(0.05)
    assert rows["imgs/c.png"]["alignment"] == rows["imgs/c.png"]["prompt"] == ""
    assert "alignment" not in run("--format", "csv").stdout


def test_the_table_explains_itself(run):
    result = run("--prompts", "imgs/prompts.csv", "--top", "3")
    lines = result.stdout.splitlines()
    assert lines[0].split()[-1] == "alignment"
    assert [line.split()[-1] for line in lines[1:4]] == ["-", "0.140", "0.050"]
    assert "Not validated against people" in result.stdout
    assert "lignment" not in run().stdout


def test_names_can_hold_the_prompts(run):
    result = run("--prompts", "/(?:sub/)?([ab])\\.png$", "--format", "jsonl")
    assert {name: r.get("prompt") for name, r in by_image(result.stdout).items()} == {
        "imgs/a.png": "a",
        "imgs/sub/b.png": "b",
        "imgs/c.png": None,
    }
    assert read_names(r"([^/]+)_(\d+)\.png$")("x/a_red_cat_7.png") == "a red cat 7"


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", "has the columns \\(none\\)"),
        ("id,prompt\n1,a\n", "has the columns id, prompt; expected name and prompt"),
        ("name,prompt\na.png,x\na.png,y\n", "line 3: a.png has two different prompts"),
        (b"name,prompt\na.png,\xff\n", "is not UTF-8"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, table, sentence):
    file = tmp_path / "t.csv"
    file.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(ValueError, match=sentence):
        read_table("t.csv")


def test_spreadsheets_tables_are_understood(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffImage , Caption\r\nimgs/a.png, ein Bär \r\n".encode())
    find = read_table("t.csv")
    assert find("imgs/a.png") == find(str(tmp_path / "imgs" / "a.png")) == "ein Bär"
    assert find("other/a.png") is None  # it was given with its folder


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("missing.csv", "There is no file 'missing.csv'"),
        ("(", "neither a file nor a regular"),
        ("(zzz)", "None of the images has a prompt"),
    ],
)
def test_wrong_usage(run, scripted, value, sentence):
    result = run("--prompts", value)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert not scripted.requests


def test_a_prompt_that_is_refused_fails_its_image_alone(run, scripted):
    def check(request, context):
        if len(request.inputs) > 1 and b"cat" in request.raw_input_contents[1]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The prompt has 2,000 tokens.")

    scripted.check = check
    result = run("--prompts", "imgs/prompts.csv", "--format", "jsonl")
    assert result.exit_code == 1
    assert by_image(result.stdout)["imgs/a.png"]["error"] == "The prompt has 2,000 tokens."
    assert "error" in by_image(result.stdout)["imgs/sub/b.png"]


def test_a_server_that_cannot_says_so(run, scripted):
    del scripted.card["alignment"]
    result = run("--prompts", "imgs/prompts.csv")
    assert result.exit_code == 6
    assert "Export it again, or leave the prompts out." in result.stderr


def test_finished_scores_count_only_with_the_same_prompt(run, scripted, tmp_path):
    def requests(*arguments):
        before = len(scripted.requests)
        assert run(*arguments, "--resume", "done.jsonl", "--format", "jsonl").exit_code == 0
        return len(scripted.requests) - before

    assert requests() == 3
    assert requests("--prompts", "imgs/prompts.csv") == 2  # one has no prompt
    assert requests("--prompts", "imgs/prompts.csv") == 0
    (tmp_path / "imgs" / "prompts.csv").write_text(TABLE.replace("a cat", "a dog"))
    assert requests("--prompts", "imgs/prompts.csv") == 1
    scripted.card["alignment"] = json.dumps({"question": "{prompt}?", "answer": "Yes"})
    assert requests("--prompts", "imgs/prompts.csv") == 2
    assert requests() == 0
    last = run("--prompts", "imgs/prompts.csv", "--resume", "done.jsonl", "--format", "jsonl")
    assert by_image(last.stdout)["imgs/a.png"]["alignment"] == pytest.approx(0.05)
