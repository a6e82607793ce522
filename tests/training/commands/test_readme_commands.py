"""Every command in training/README.md names a module, options and settings that there are."""

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from ma_agiqa.train.config import load_config

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {
        " ".join(found.split("\\\n"))
        for found in re.findall(r"python -m (ma_agiqa[^`|]*?)(?<!\\)(?:\n|`)", README)
        if "--" in found and "..." not in found
    }
)


def command_of(module: str) -> click.Command:
    try:
        return importlib.import_module(f"{module}.__main__").main
    except ModuleNotFoundError:
        return importlib.import_module(module).main


def test_the_readme_has_the_commands_of_every_step():
    modules = {command.split()[0].removeprefix("ma_agiqa.") for command in COMMANDS}
    steps = {"datasets", "features", "train", "evaluate", "ablate", "figures", "baselines"}
    assert steps <= modules


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_is_understood(command, monkeypatch):
    module, *words = shlex.split(command)
    found = command_of(module)
    if isinstance(found, click.Group):
        found, words = found.commands[words[0]], words[1:]
    for parameter in found.params:
        if isinstance(parameter.type, click.Path):  # earlier commands make these files
            monkeypatch.setattr(parameter.type, "exists", False)
    context = found.make_context(module, words)
    config = context.params.get("config_path")
    if config:
        load_config(ROOT / config)


@pytest.mark.parametrize("path", re.findall(r"`(configs/\w+\.yaml|checkpoints/\w+)`", README))
def test_files_that_are_named_are_there(path):
    assert (ROOT / "training" / path).exists()


@pytest.mark.parametrize("picture", re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README))
def test_pictures_are_there(picture):
    assert (ROOT / "training" / picture).is_file()
