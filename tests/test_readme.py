"""The blocks of the main README and of training's run, and their output is what they print."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from ma_agiqa_client.cli import main as score

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
TRAINING = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", README + TRAINING, re.DOTALL | re.MULTILINE)
COMMANDS = [line for name, block in BLOCKS if name == "sh" for line in block.splitlines()]


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A working directory that looks like the clone, where commands may leave files."""
    for name in ("client", "examples", "export", "deploy", "model_repository", "training"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def run(*words: str) -> str:
    done = CliRunner().invoke(score, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_command_is_run_or_a_task():  # tests/test_docs.py looks for the tasks
    known = ("make ", "python client/score.py ", "source .venv/bin/activate")
    assert [command for command in COMMANDS if not command.startswith(known)] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python ")])
def test_commands(command, clone, server):
    words = shlex.split(command, comments=True)[2:]
    shown = run(*words, "--url", server.grpc_url)
    if "--output" in words:
        shown = (clone / words[words.index("--output") + 1]).read_text(encoding="utf-8")
    assert "pristine" in shown


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks(block, server, capsys):
    exec(compile(block.replace("localhost:8001", server.grpc_url), "README", "exec"), {})
    assert re.search(r"\d\.\d", capsys.readouterr().out)


@pytest.mark.usefixtures("clone")
def test_the_printed_lines_are_the_real_ones(server):
    (shown,) = (text for name, text in BLOCKS if not name and "pristine" in text)
    lines = run("examples", "--url", server.grpc_url).splitlines()
    printed = {line.split()[0]: line.split() for line in lines if line}
    for expected in filter(None, shown.replace("...\n", "").splitlines()):
        words = printed[expected.split()[0]]
        for word, number in zip(words, expected.split(), strict=True):
            if re.fullmatch(r"[\d.]+%?", number):
                difference = abs(float(word.rstrip("%")) - float(number.rstrip("%")))
                assert difference <= (1 if "." not in number else 0.002)
            else:
                assert word == number
