"""Fixtures that several folders of tests share."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from embedded.server import EmbeddedTriton
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config
from support.reference import GOLDEN, official_tensors

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedTriton]:
    """The repository as it is shipped, served by the real Triton on free ports."""
    with EmbeddedTriton(ROOT / "model_repository", free_ports=True) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_owl() -> dict:
    """The small mPLUG-Owl2: config, official state dict, token ids and reference outputs."""
    description = json.loads((GOLDEN / "mplug_owl2_tiny.json").read_text())
    with np.load(GOLDEN / "mplug_owl2_tiny.npz") as arrays:
        reference = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return {
        "config": description["config"],
        "state": official_tensors(description["parameters"]),
        "input_ids": description["input_ids"],
        "reference": reference,
        "build": lambda: MPlugOwl2Config(**description["config"]),
    }
