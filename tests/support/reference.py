"""Reference numbers of the authors' implementation: where they are, and the weights behind them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from golden.deterministic_weights import values

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def official_tensors(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Give the official parameters of these names and shapes their reference values."""
    return {name: torch.from_numpy(values(name, tuple(s))) for name, s in shapes.items()}
