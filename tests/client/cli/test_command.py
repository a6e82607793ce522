"""The command line: outputs, choices, exit statuses, and the examples of its help."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from PIL import Image

from ma_agiqa_client._programs import serving
from ma_agiqa_client.cli import _command as cli

SCRIPT = Path(__file__).resolve().parents[3] / "client" / "score.py"
NUMBERS = {"imgs/low.png": b"10", "imgs/sub/high.png": b"90", "imgs/[bold]mid.png": b"50"}
BEST_FIRST = ["imgs/sub/high.png", "imgs/[bold]mid.png", "imgs/low.png"]


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """Files whose score the scripted server reads from their bytes."""
    for name in ("URL", "TOKEN", "TIMEOUT", "CONCURRENCY"):
        monkeypatch.delenv(f"MA_AGIQA_{name}", raising=False)
    for name, content in NUMBERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(scripted):
    def run(*arguments, **options):
        return invoke(*arguments, "--url", scripted.url, **options)

    return run


def invoke(*arguments, **options):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], **options)


def images_of(json_lines):
    return [json.loads(line)["image"] for line in json_lines.splitlines()]


def test_the_table_is_sorted_and_names_the_model(run):
    result = run("imgs")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    headings = "image MOS 0-1 percentile semantic coherence quality"
    assert lines[0].split() == headings.split()
    assert lines[1].split() == [
        *("imgs/sub/high.png", "90.000", "0.900", "90", "%", "25%", "25%", "50%")
    ]
    assert lines[2].startswith("imgs/[bold]mid.png")
    assert lines[3].startswith("imgs/low.png")
    assert lines[5] == "Model: tiny (preset demo, data set synthetic). The demo model."
    assert lines[6].startswith("MOS: predicted mean opinion score of people, 0 to 100, higher is")
    assert result.stderr == ""


def test_json(run):
    rows = json.loads(run("imgs", "--format", "json").stdout)
    assert [row["image"] for row in rows] == BEST_FIRST
    assert rows[0] == {
        "image": "imgs/sub/high.png",
        "mos": 90.0,
        "normalized": 0.9,
        "percentile": 90.0,
        "interval": None,
        "deviation": None,
        "familiarity": None,
        "gate": {"semantic": 0.25, "coherence": 0.25, "quality": 0.5},
        "model": "tiny",
        "error": None,
    }


def test_the_ending_of_the_output_file_gives_the_format(run):
    result = run("imgs", "--output", "scores.csv")
    assert (result.exit_code, result.stdout) == (0, "")
    rows = csv.DictReader(io.StringIO(Path("scores.csv").read_text()))
    assert [row["mos"] for row in rows] == ["50.0", "10.0", "90.0"]
    run("imgs", "--output", "scores.csv", "--format", "json")
    assert len(json.loads(Path("scores.csv").read_text())) == 3


def test_an_output_file_is_kept_if_no_server_answers(run, scripted):
    scripted.card.clear()
    Path("scores.csv").write_text("old")
    result = run("imgs", "--output", "scores.csv")
    assert result.exit_code == 3
    assert "no parameter `name`" in result.stderr
    assert Path("scores.csv").read_text() == "old"


def test_a_list_on_standard_input(run):
    for text in ("imgs/low.png\nimgs/sub\nabsent.png\n", "imgs/low.png\0imgs/sub\0absent.png\0"):
        result = run("-", "--format", "jsonl", input=text)
        assert result.exit_code == 1
        assert images_of(result.stdout) == ["imgs/low.png", "imgs/sub/high.png", "absent.png"]
        assert "absent.png" in result.stderr


def test_globs_and_subfolders(run):
    assert images_of(run("imgs/**/h*.png", "-f", "jsonl").stdout) == ["imgs/sub/high.png"]
    assert len(images_of(run("imgs", "--no-recursive", "-f", "jsonl").stdout)) == 2


def test_the_best(run):
    assert images_of(run("imgs", "--top", "2", "-f", "jsonl").stdout) == BEST_FIRST[:2]
    assert set(images_of(run("imgs", "--min-mos", "50", "-f", "jsonl").stdout)) == set(
        BEST_FIRST[:2]
    )


def test_the_best_of_each_group(run, images):
    for number in range(6):
        (images / f"imgs/p{number % 2}_{number}.png").write_bytes(str(number).encode())
    result = run("imgs", "--group-by", r"(p\d)_", "-f", "json")
    rows = json.loads(result.stdout)
    assert [(row["group"], row["mos"]) for row in rows] == [("p0", 4.0), ("p1", 5.0)]
    assert "3 images do not match --group-by and were left out." in result.stderr
    result = run("imgs", "--group-by", "parent", "--top", "2", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["group"], row["mos"]) for row in rows] == [
        ("imgs", "50.0"),
        ("imgs", "10.0"),
        ("imgs/sub", "90.0"),
    ]


def test_the_best_are_copied(run, images):
    assert run("imgs", "--top", "2", "--copy-best", "best").exit_code == 0
    assert sorted(path.name for path in (images / "best").glob("0*")) == [
        "0001_high.png",
        "0002_[bold]mid.png",
    ]
    again = run("imgs", "--top", "1", "--copy-best", "best")
    assert again.exit_code == 2
    assert "not empty" in again.stderr
    assert run("imgs", "--min-mos", "20", "--copy-best", "good").exit_code == 0
    assert (images / "good" / "0001_high.png").read_bytes() == b"90"


def test_maps_and_report(run, scripted, images):
    scripted.answer = lambda image, context: float(len(image) % 100)
    for name in ("a.png", "b.webp"):
        Image.new("RGB", (40, 30), "green").save(images / "imgs" / name)
    result = run("imgs", "--maps", "maps", "--report", "report.html")
    assert result.exit_code == 0
    assert "imgs/low.png: No map was drawn" in result.stderr  # Pillow cannot read a number
    maps = sorted(path.name for path in (images / "maps" / "imgs").iterdir())
    assert maps == ["a.png.map.jpg", "b.webp.map.jpg"]
    text = (images / "report.html").read_text("utf-8")
    assert text.count("data:image/webp;base64") == 2
    assert '"title":"imgs"' in text


def test_bad_images_are_listed_and_the_others_scored(run, images):
    (images / "imgs" / "bad.png").write_bytes(b"text")
    (images / "imgs" / "empty.png").touch()
    result = run("imgs", "--format", "json")
    assert result.exit_code == cli.EXIT_BAD_IMAGES == 1
    rows = json.loads(result.stdout)
    assert [row["mos"] for row in rows] == [90, 50, 10, None, None]
    assert rows[3]["error"] == "Not a number. Send digits."
    assert rows[3]["gate"] is None
    assert "2 of 5 images could not be scored." in result.stderr
    assert "imgs/bad.png: Not a number. Send digits." in result.stderr


def test_names_cannot_command_the_terminal(run, images):
    (images / "imgs" / "red\x1b[31m.png").write_bytes(b"1")
    (images / "imgs" / "worse\x1b[31m.png").write_bytes(b"text")
    result = run("imgs")
    assert "\x1b" not in result.stdout + result.stderr
    assert "imgs/red\N{REPLACEMENT CHARACTER}[31m.png" in result.stdout


def test_a_file_name_that_is_not_text_survives(run, images):
    (images / "imgs" / "caf\udce9.png").write_bytes(b"1")
    (images / "imgs" / "caf\udcea.png").write_bytes(b"text")
    result = run("imgs", "--format", "json")
    assert result.exit_code == 1
    assert "imgs/caf\udce9.png" in [row["image"] for row in json.loads(result.stdout)]
    run("imgs", "--output", "scores.csv")
    assert b"caf\xe9.png" in (images / "scores.csv").read_bytes()
    assert b"caf\xe9.png" in run("imgs", "-f", "csv").stdout_bytes
    assert run("imgs", "--report", "r.html", "--resume", "r.jsonl").exit_code == 1


def test_no_images(tmp_path):
    (tmp_path / "nothing").mkdir()
    result = invoke(tmp_path / "nothing")
    assert result.exit_code == 2
    assert "no images" in result.stderr
    assert invoke("-", input="").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["absent"],
        ["absent/*.png"],
        [],
        ["imgs", "--nonsense"],
        ["imgs", "--timeout", "0"],
        ["imgs", "--concurrency", "0"],
        ["imgs", "--top", "0"],
        ["imgs", "--format", "xml"],
        ["imgs", "--group-by", "("],
        ["imgs", "--url", "http://localhost:8001"],
        ["imgs", "--url", "localhost:1", "--url", "localhost:1"],
        ["imgs", "--url", "localhost:1", "--tls-cert", "imgs/low.png"],
        ["imgs", "--tls-ca", "absent.pem"],
        ["imgs", "--output", "absent/scores.csv"],
        ["imgs", "--report", "absent/report.html"],
        ["imgs", "--resume", "imgs"],
        ["imgs", "--output", "x", "--report", "./x"],
        ["imgs", "--copy-best", "best"],
    ],
)
def test_wrong_usage(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error:" in result.stderr


@pytest.mark.usefixtures("no_waiting")
def test_an_explicit_address_never_falls_back(monkeypatch, no_server):
    monkeypatch.setattr(serving, "embedded_server", lambda script: pytest.fail("it fell back"))
    for arguments, given in (((), {"MA_AGIQA_URL": no_server}), (("--url", no_server), {})):
        result = invoke("imgs", "--format", "json", *arguments, env=given)
        assert result.exit_code == cli.EXIT_NO_SERVER == 3
        assert result.stdout == ""
        assert f"The server at {no_server} is not available" in result.stderr


def test_the_environment_gives_address_and_token(scripted):
    environment = {"MA_AGIQA_URL": scripted.url, "MA_AGIQA_TOKEN": "secret"}
    assert invoke("imgs", env=environment).exit_code == 0
    assert scripted.headers[-1]["authorization"] == "Bearer secret"


def many(folder, count):
    for number in range(count):
        (folder / "imgs" / f"many_{number:04d}.png").write_bytes(str(number).encode())


def break_at(scripted, number):
    """From then on the server refuses as one that is gone."""

    def answer(image, context):
        if len(scripted.requests) > number:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return float(image)

    scripted.answer = answer


@pytest.mark.usefixtures("no_waiting")
def test_a_server_that_goes_away_in_the_middle(run, scripted, images):
    many(images, 300)
    whole = run("imgs", "--resume", "whole.jsonl", "-f", "jsonl")
    scripted.requests.clear()
    break_at(scripted, 100)
    arguments = ("imgs", "--resume", "done.jsonl", "-f", "jsonl", "--concurrency", "4")
    broken = run(*arguments, "--top", "3", "--copy-best", "best")
    assert broken.exit_code == 3
    assert len(scripted.requests) < 150  # it does not try all the others
    assert not (images / "best").exists()
    assert "Nothing was copied" in broken.stderr
    left = re.search(r"(\d+) of 303 images could not be scored\.", broken.stderr)
    kept = Path("done.jsonl").read_text().splitlines()
    assert len(kept) == 303 - int(left[1])
    assert "Run the same command again" in broken.stderr
    scripted.answer = lambda image, context: float(image)
    scripted.requests.clear()
    finished = run(*arguments)
    assert finished.exit_code == 0
    assert f"{len(kept)} of 303 images were scored earlier." in finished.stderr
    assert len(scripted.requests) == 303 - len(kept)
    for one, other in (
        (finished.stdout, whole.stdout),
        (Path("done.jsonl").read_text(), Path("whole.jsonl").read_text()),
    ):  # images that were in flight when it broke come later
        assert sorted(one.splitlines()) == sorted(other.splitlines())


@pytest.mark.usefixtures("no_waiting")
def test_without_resume_the_scored_are_shown_and_the_rest_named(run, scripted, images):
    many(images, 50)
    break_at(scripted, 20)
    result = run("imgs", "-f", "jsonl", "--concurrency", "1")
    assert result.exit_code == 3
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 53
    assert sum(row["error"] is None for row in rows) == 20
    assert rows[-1]["error"] == "Not tried: the server went away."
    assert "The server went away: 29 of these were not tried." in result.stderr
    assert result.stderr.count("is not available") == 1  # not once per image
    assert "With --resume" in result.stderr


@pytest.mark.parametrize("other", [{"name": "other"}, {"checkpoint_sha256": "1" * 64}])
def test_resume_refuses_scores_of_another_model(run, scripted, other):
    assert run("imgs", "--resume", "done.jsonl").exit_code == 0
    before = Path("done.jsonl").read_bytes()
    scripted.card |= other
    result = run("imgs", "--resume", "done.jsonl")
    assert result.exit_code == cli.EXIT_JOURNAL == 4
    assert "cannot be compared" in result.stderr
    assert Path("done.jsonl").read_bytes() == before


def test_resume_scores_what_changed_and_what_is_new(run, scripted, images):
    run("imgs", "--resume", "done.jsonl")
    scripted.requests.clear()
    (images / "imgs" / "low.png").write_bytes(b"1234567")
    (images / "imgs" / "new.png").write_bytes(b"5")
    (images / "imgs" / "sub" / "high.png").unlink()
    rows = json.loads(run("imgs", "--resume", "done.jsonl", "-f", "json").stdout)
    assert [row["mos"] for row in rows] == [1234567, 50, 5]
    assert len(scripted.requests) == 2


@pytest.mark.parametrize("changed", [{"name": "second"}, {"checkpoint_sha256": "1" * 64}])
@pytest.mark.parametrize(
    "arguments", [("imgs", "--resume", "done.jsonl"), ("compare", "imgs", "imgs")]
)
def test_a_model_that_changes_during_the_run_is_noticed(
    run, scripted, images, monkeypatch, arguments, changed
):
    many(images, 3)
    Path("done.jsonl").touch()
    scripted.card["name"] = "first"
    model = serving.Scorer.model

    def then_replaced(self, **options):
        card = model(self, **options)
        scripted.card |= changed
        model(self, **options)
        return card

    monkeypatch.setattr(serving.Scorer, "model", then_replaced)
    result = run(*arguments)
    assert result.exit_code == 3
    name, sha256 = scripted.card["name"], scripted.card["checkpoint_sha256"]
    said = f"has changed from the model first ({'0' * 12}) to {name} ({sha256[:12]})"
    assert said in result.stderr
    assert Path("done.jsonl").read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_reported(run):
    result = run("imgs", "--output", "/dev/full")
    assert result.exit_code == cli.EXIT_NOT_WRITTEN == 5
    assert "could not be written" in result.stderr
    assert "No space left" in result.stderr


def test_the_examples_of_the_help_run(run, images):
    (images / "cat.png").write_bytes(b"70")
    (images / "prompts.csv").write_text("name,prompt\nlow.png,a dog\n")
    text = invoke("--help", prog_name="python client/score.py").stdout
    examples = [line.strip() for line in text.splitlines() if "python client/score.py " in line]
    examples = [line for line in examples if not line.startswith("Usage")]
    assert len(examples) == 11
    for line in examples:
        before, _, command = line.rpartition("python client/score.py ")
        arguments = shlex.split(command)
        if "--url" in arguments:  # the last one given counts for the test
            at = arguments.index("--url")
            del arguments[at : at + 2]
        listed = subprocess.run(before.rstrip("| ") or "true", shell=True, capture_output=True)
        result = run(*arguments, input=listed.stdout)
        assert result.exit_code == 0, line
    assert sorted(path.name for path in images.iterdir() if path.suffix in (".csv", ".html")) == [
        "prompts.csv",
        "report.html",
        "scores.csv",
    ]


def test_a_reader_that_goes_away_ends_it_quietly(scripted, images):
    many(images, 2000)
    command = [sys.executable, SCRIPT, "imgs", "-f", "jsonl", "--url", scripted.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == cli.EXIT_READER_GONE


@pytest.mark.parametrize("name", ["table", "csv", "json"])
def test_a_reader_that_reads_nothing_ends_it_quietly(scripted, name):
    """As `score.py imgs | true`; the formats that are written at the end, too."""
    command = [sys.executable, SCRIPT, "imgs", "-f", name, "--url", scripted.url]
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True)
    assert (done.stderr, done.returncode) == ("", cli.EXIT_READER_GONE)


ENCODINGS = {
    "ascii output": {"PYTHONIOENCODING": "ascii"},
    "locale C": {"LC_ALL": "C"},
    "locale C, also for names": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["table", "csv", "jsonl"])
def test_where_output_is_not_utf_8_every_image_is_shown(scripted, images, name, encoding):
    (images / "imgs" / "\u732b.png").write_bytes(b"70")
    (images / "imgs" / "bad\u732b.png").write_bytes(b"x")
    command = [sys.executable, SCRIPT, "imgs", "-f", name, "--url", scripted.url]
    environment = {**os.environ, "PYTHONIOENCODING": "", **ENCODINGS[encoding]}
    done = subprocess.run(command, capture_output=True, env=environment)
    said = done.stderr.decode()
    assert (done.returncode, "Traceback" in said) == (1, False)  # one image is bad
    assert re.search(r"imgs/bad\S+\.png: Not a number", said)
    shown = done.stdout.decode()
    assert all(mos in shown for mos in ("90.0", "70.0", "50.0", "10.0"))
    if encoding == "ascii output":
        assert r"imgs/bad\u732b.png" in said
        assert ("imgs/\u732b.png" if name == "csv" else r"imgs/\u732b.png") in shown


@pytest.mark.parametrize("columns", [20, 54])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_narrow_terminal_shows_whole_names_and_scores(scripted, images, columns, encoding):
    pty = pytest.importorskip("pty")
    (images / "imgs" / ("long-\u732b-" * 12 + ".png")).write_bytes(b"70")
    ours, theirs = pty.openpty()
    command = [sys.executable, SCRIPT, "imgs", "--url", scripted.url]
    environment = {**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode(encoding)
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")
    table = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "").split("\n\n")[0]
    assert table.split()[:2] == ["image", "MOS"]
    scores = re.findall(r"\d\d\.\d{3}", table)
    assert scores == ["90.000", "70.000", "50.000", "10.000"]
    names = "".join(re.sub(r"\d\d\.\d{3}|\s", "", line) for line in table.split("\n")[1:])
    name = "imgs/" + "long-\u732b-" * 12 + ".png"
    assert (name if encoding == "utf-8" else "imgs/long-\\u732b-") in names


def test_a_terminal_sees_progress_on_standard_error_only(scripted, images):
    pty = pytest.importorskip("pty")
    many(images, 200)
    ours, theirs = pty.openpty()
    command = [sys.executable, SCRIPT, "imgs", "-f", "jsonl", "--url", scripted.url]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    seen = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    assert len(images_of(done.stdout.decode())) == 203
    assert "/203" in seen
