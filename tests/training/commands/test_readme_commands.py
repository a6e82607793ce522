"""Every command in training/README.md has the names, options and settings that there are."""

import re
import shlex
from pathlib import Path

import click
import pytest

from ma_agiqa.__main__ import COMMANDS, main
from ma_agiqa.train.config import load_config

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
FOUND = sorted(
    {
        " ".join(found.split("\\\n"))
        for found in re.findall(r"-m ma_agiqa ([^`|]*?)(?<!\\)(?:\n|`)", README)
        if "--" in found and "..." not in found
    }
)


def test_the_readme_has_the_commands_of_every_step():
    steps = {"datasets", "features", "train", "evaluate", "ablate", "figures", "baselines"}
    assert steps <= {command.split()[0] for command in FOUND} <= set(COMMANDS)


@pytest.mark.parametrize("command", FOUND)
def test_the_command_is_understood(command, monkeypatch):
    words, found = shlex.split(command), main
    context = click.Context(main)
    while isinstance(found, click.Group):
        found, words = found.get_command(context, words[0]), words[1:]
    for parameter in found.params:
        if isinstance(parameter.type, click.Path):  # earlier commands make these files
            monkeypatch.setattr(parameter.type, "exists", False)
    config = found.make_context("command", words).params.get("config_path")
    if config:
        load_config(ROOT / config)


@pytest.mark.parametrize("path", re.findall(r"`(configs/\w+\.yaml|checkpoints/\w+)`", README))
def test_files_that_are_named_exist(path):
    assert (ROOT / "training" / path).exists()


@pytest.mark.parametrize("picture", re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README))
def test_pictures_exist(picture):
    assert (ROOT / "training" / picture).is_file()
