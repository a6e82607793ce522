"""Repositories that a test of this folder may change."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.stand_in.repository import write_stand_in


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The stand-in's repository, in a folder that no other test uses."""
    return write_stand_in(tmp_path / "repository")


@pytest.fixture
def change(repository: Path) -> Callable[[str, str, str], None]:
    """Replaces text, or with "" puts it first, in the file of a model of `repository`."""

    def change(model: str, old: str, new: str) -> None:
        file = repository / model / "1" / "model.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return change


@pytest.fixture(scope="session")
def torchscript_model() -> Callable[[Path, str, torch.nn.Module, str], None]:
    """Writes a scripted module and its configuration into a repository."""

    def write(repository: Path, name: str, module: torch.nn.Module, config: str) -> None:
        version = repository / name / "1"
        version.mkdir(parents=True)
        header = 'platform: "pytorch_libtorch"\n'
        (repository / name / "config.pbtxt").write_text(header + config)
        torch.jit.script(module).save(version / "model.pt")

    return write
