"""The README's commands run, and its output is what they print."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in fences if name == language]


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A working directory that looks like the clone, where commands may leave files."""
    for name in ("client", "examples", "export", "deploy", "model_repository", "training"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_the_task(command):
    run(["make", "-n", *shlex.split(command)[1:]], ROOT)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python client/")])
def test_client_commands(command, clone, server):
    words = shlex.split(command, comments=True)[1:]
    shown = run([sys.executable, *words, "--url", server.grpc_url], clone)
    if "--output" in words:
        shown = (clone / words[words.index("--output") + 1]).read_text(encoding="utf-8")
    assert "pristine" in shown


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python export/")])
def test_exporting_the_demo_model_gives_the_shipped_configuration(command, clone):
    run([sys.executable, *shlex.split(command)[1:], "--device", "cpu"], clone)
    for name in ("ma_agiqa", "preprocess", "mplug_owl2", "maniqa_moe", "meter"):
        exported, shipped = (
            text_format.Parse(
                (folder / name / "config.pbtxt").read_text(encoding="utf-8"),
                model_config_pb2.ModelConfig(),
            )
            for folder in (clone / "runs" / "my_repository", ROOT / "model_repository")
        )
        for config in (exported, shipped):
            config.parameters["created"].Clear()
        assert exported == shipped, name


def test_every_command_is_covered():
    known = ("make ", "python client/", "python export/", "source .venv/bin/activate")
    assert [c for c in COMMANDS if not c.startswith(known)] == []


def test_python_block(clone, server, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    (block,) = blocks("python")
    exec(compile(block.replace("localhost:8001", server.grpc_url), "README", "exec"), {})
    assert "semantic" in capsys.readouterr().out


def test_the_printed_table_is_the_real_one(clone, server):
    command = [sys.executable, "client/score.py", "examples", "--url", server.grpc_url]
    shown = next(block for block in blocks("") if "pristine" in block).split()
    printed = run(command, clone).split()
    assert len(printed) == len(shown)
    for word, expected in zip(printed, shown, strict=True):
        if re.fullmatch(r"[\d.]+%?", expected):
            difference = abs(float(word.rstrip("%")) - float(expected.rstrip("%")))
            assert difference <= (1 if "." not in expected else 0.002)
        else:
            assert word == expected
