"""Loading tensors by name, with none missing and none left over."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ma_agiqa.errors import CheckpointError


def load_exactly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load `state`, whose names and shapes must be those of `model`.

    Raises:
        CheckpointError: lists what is missing, left over or of another shape.
    """
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    check_names(shapes, {name: value.shape for name, value in state.items()})
    model.load_state_dict(dict(state))


def check_names(own: Mapping[str, torch.Size], state: Mapping[str, torch.Size]) -> None:
    """Compare a checkpoint's names and shapes, `state`, with a model's.

    Raises:
        CheckpointError: lists what is missing, left over or of another shape.
    """
    faults = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(state[name])} instead of {tuple(own[name])}"
            for name in sorted(own.keys() & state.keys())
            if own[name] != state[name]
        ],
    }
    refuse(faults, "The checkpoint does not fit the model.")


def refuse(faults: Mapping[str, Sequence[str]], sentence: str) -> None:
    """Raise `CheckpointError` with a sentence and the tensors of each kind of fault, if any."""
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {name_some(names)}" for kind, names in faults.items() if names)
        raise CheckpointError(f"{sentence} Tensors {listed}.")


def name_some(names: Sequence[str], limit: int = 8) -> str:
    """List the first names and the number of the others."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
