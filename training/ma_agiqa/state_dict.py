"""Loading tensors by name, with nothing missing and nothing left over."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ma_agiqa.errors import CheckpointError

__all__ = ["load_exactly", "name_some"]


def load_exactly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load `state`, whose names and shapes must be those of `model`.

    Raises:
        CheckpointError: lists what is missing, left over or of another shape.
    """
    own = model.state_dict()
    faults = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in sorted(own.keys() & state.keys())
            if own[name].shape != state[name].shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{kind}: {name_some(names)}" for kind, names in faults.items() if names)
        raise CheckpointError(f"The checkpoint does not fit the model. Tensors {told}.")
    model.load_state_dict(dict(state))


def name_some(names: Sequence[str], limit: int = 8) -> str:
    """List the first names, and say how many more there are."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
