"""`python -m ma_agiqa` lists the commands at once and runs one; each explains itself."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ma_agiqa.__main__ import COMMANDS, main

FOLDER = Path(sys.modules["ma_agiqa.__main__"].__file__).parent / "commands"


def test_every_file_is_a_command_and_the_other_way_around():
    files = {path.stem for path in FOLDER.glob("[!_]*.py")}
    assert files == {name.replace("-", "_") for name in COMMANDS}


def test_the_list_needs_no_heavy_import():
    code = (
        "import sys; from ma_agiqa.__main__ import main; main(['--help'], standalone_mode=False);"
        "print(sorted({'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *listed, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    for name, text in COMMANDS.items():
        assert any(name in line and text in line for line in listed)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name):
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"{name} [OPTIONS]" in done.stdout
    assert "Examples:" in done.stdout or "Commands:" in done.stdout


def test_help_uses_a_hundred_columns():
    done = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["train", "--help"])
    assert 80 < max(map(len, done.stdout.splitlines())) <= 100


def test_an_unknown_command_is_said():
    done = CliRunner().invoke(main, ["trian"])
    assert done.exit_code == 2
    assert "trian" in done.stderr
