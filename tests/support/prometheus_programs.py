"""promtool and prometheus; where there are none, the test is skipped and says why."""

import shutil
from pathlib import Path

import pytest

FETCHED = Path(__file__).resolve().parents[2] / ".tools" / "prometheus" / "usr" / "bin"


def program(name: str) -> str:
    """Path of `promtool` or `prometheus`: the machine's, or what `make deploy-tools` fetched."""
    found = shutil.which(name) or shutil.which(name, path=FETCHED)
    if found is None:
        pytest.skip(f"no {name} here: apt install prometheus, or make deploy-tools")
    return found
