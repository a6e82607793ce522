"""The command line: outputs, exit statuses, and the examples of its help."""

import csv
import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ma_agiqa_client import cli

SCRIPT = Path(__file__).resolve().parents[2] / "client" / "score.py"
NUMBERS = {"imgs/low.png": b"10", "imgs/sub/high.png": b"90", "imgs/[bold]mid.png": b"50"}


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Files whose score the scripted server reads from their bytes."""
    for name, content in NUMBERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("images")
def test_the_table_is_sorted_and_names_the_model(scripted):
    result = run("imgs", "--url", scripted.url)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "image",
        "MOS",
        "0-1",
        "percentile",
        "semantic",
        "coherence",
        "quality",
    ]
    assert lines[1].split() == [
        "imgs/sub/high.png",
        "90.000",
        "0.900",
        "90",
        "%",
        "25%",
        "25%",
        "50%",
    ]
    assert lines[2].startswith("imgs/[bold]mid.png")
    assert lines[3].startswith("imgs/low.png")
    assert lines[5] == "Model: tiny (preset demo, data set synthetic). The demo model."
    assert lines[6].startswith("MOS: predicted mean opinion score of people, 0 to 100, higher is")
    assert result.stderr == ""


@pytest.mark.usefixtures("images")
def test_json(scripted):
    result = run("imgs", "--url", scripted.url, "--json")
    rows = json.loads(result.stdout)
    assert [row["image"] for row in rows] == [
        "imgs/sub/high.png",
        "imgs/[bold]mid.png",
        "imgs/low.png",
    ]
    assert rows[0] == {
        "image": "imgs/sub/high.png",
        "mos": 90.0,
        "normalized": 0.9,
        "percentile": 90.0,
        "gate": {"semantic": 0.25, "coherence": 0.25, "quality": 0.5},
        "model": "tiny",
        "error": None,
    }


def test_bad_images_are_listed_and_the_others_scored(scripted, images):
    (images / "imgs" / "bad.png").write_bytes(b"text")
    (images / "imgs" / "empty.png").touch()
    result = run("imgs", "--url", scripted.url, "--json", "--csv", "scores.csv")
    assert result.exit_code == cli.EXIT_BAD_IMAGES == 1
    rows = json.loads(result.stdout)
    assert [row["mos"] for row in rows] == [90, 50, 10, None, None]
    assert rows[3]["error"] == "Not a number. Send digits."
    assert rows[3]["gate"] is None
    assert "2 of 5 images could not be scored:" in result.stderr
    assert "imgs/bad.png: Not a number. Send digits." in result.stderr
    with open("scores.csv", encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["image"] for row in written] == [row["image"] for row in rows]
    assert (written[0]["mos"], written[0]["gate_quality"], written[0]["error"]) == (
        "90.0",
        "0.5",
        "",
    )
    assert (written[3]["mos"], written[3]["error"]) == ("", "Not a number. Send digits.")


def test_names_cannot_command_the_terminal(scripted, images):
    (images / "imgs" / "red\x1b[31m.png").write_bytes(b"1")
    (images / "imgs" / "worse\x1b[31m.png").write_bytes(b"text")
    result = run("imgs", "--url", scripted.url)
    assert "\x1b" not in result.stdout + result.stderr
    assert "imgs/red\N{REPLACEMENT CHARACTER}[31m.png" in result.stdout


def test_a_file_name_that_is_not_text_survives(scripted, images):
    (images / "imgs" / "caf\udce9.png").write_bytes(b"1")
    result = run("imgs", "--url", scripted.url, "--json", "--csv", "scores.csv")
    assert result.exit_code == 0
    assert json.loads(result.stdout)[-1]["image"] == "imgs/caf\udce9.png"
    assert b"caf\xe9.png" in (images / "scores.csv").read_bytes()
    assert run("imgs", "--url", scripted.url).exit_code == 0


def test_no_images(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "no images" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["absent"],
        [],
        ["imgs", "--nonsense"],
        ["imgs", "--timeout", "0"],
        ["imgs", "--concurrency", "0"],
        ["imgs", "--url", "http://localhost:8001"],
        ["imgs", "--csv", "absent/scores.csv"],
    ],
)
@pytest.mark.usefixtures("images")
def test_wrong_usage(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error:" in result.stderr


@pytest.mark.usefixtures("images", "no_waiting")
def test_an_explicit_address_never_falls_back(monkeypatch):
    monkeypatch.setattr(cli, "embedded_server", lambda script: pytest.fail("it fell back"))
    with socket.socket() as taken:  # bound but not listening: refuses connections
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("imgs", "--url", url, "--json")
    assert result.exit_code == cli.EXIT_NO_SERVER == 3
    assert result.stdout == ""
    assert f"The server at {url} is not available" in result.stderr


@pytest.mark.usefixtures("images")
def test_the_wrong_model(scripted):
    scripted.card.clear()
    result = run("imgs", "--url", scripted.url)
    assert result.exit_code == 3
    assert "no parameter `name`" in result.stderr


@pytest.mark.usefixtures("images", "no_waiting")
def test_a_server_that_goes_away_keeps_what_was_scored(scripted):
    def answer(image, context):
        if image == b"50":
            scripted.stop()
        return float(image)

    scripted.answer = answer
    result = run("imgs", "--url", scripted.url, "--json", "--concurrency", "1")
    assert result.exit_code == 3
    assert len(json.loads(result.stdout)) == 3
    assert "could not be scored" in result.stderr


@pytest.mark.usefixtures("images")
def test_the_examples_of_the_help_run(scripted, images):
    (images / "cat.png").write_bytes(b"70")
    text = run("--help").stdout
    examples = [shlex.split(line) for line in text.splitlines() if "  python client/" in line]
    assert len(examples) == 4
    for _, script, *arguments in examples:
        assert script == "client/score.py"
        given = arguments if "--url" in arguments else [*arguments, "--url", ""]
        given[given.index("--url") + 1] = scripted.url
        assert run(*given).exit_code == 0


@pytest.mark.usefixtures("images")
def test_the_script_runs_from_any_folder(scripted):
    command = [sys.executable, SCRIPT, "imgs/low.png", "--json", "--url", scripted.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[0]["mos"] == 10
    assert done.stderr == ""
