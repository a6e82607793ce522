"""The two distributions: one version, and extras that are what the documentation names."""

from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("folder", ["client", "training"])
def test_both_distributions_have_the_version_of_one_file(folder):
    settings = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    file = ROOT / folder / settings["tool"]["setuptools"]["dynamic"]["version"]["file"]
    assert file.resolve() == ROOT / "VERSION"
