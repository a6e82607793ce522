"""Batches that do not fit into memory: halved and tried again."""

import gc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_CPU_WORDS = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's allocator for the CPU raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_WORDS)


def run_in_parts(
    run: Callable[[Tensor], dict[str, Tensor]], parts: Sequence[Tensor]
) -> list[dict[str, Tensor] | None]:
    """Run a network over several requests at once, and over fewer if memory runs out.

    Args:
        run: takes a batch (B, ...) and returns outputs by name, each (B, ...); the rows do not
            depend on each other.
        parts: the images of each request, (B_i, ...), B_i >= 1.

    Returns:
        For each request its outputs, each (B_i, ...); None where memory does not even suffice for
        one of its images.
    """
    try:
        outputs = run(torch.cat(list(parts)))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        sizes = [len(part) for part in parts]
        split = {name: values.split(sizes) for name, values in outputs.items()}
        return [{name: split[name][i] for name in split} for i in range(len(sizes))]
    # Out here the error, and with it every tensor of the failed run, is gone.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(parts) > 1:
        middle = len(parts) // 2
        return run_in_parts(run, parts[:middle]) + run_in_parts(run, parts[middle:])
    return [_run_one(run, parts[0])]


def _run_one(run: Callable[[Tensor], dict[str, Tensor]], part: Tensor) -> dict[str, Tensor] | None:
    """Run one request in halves; None if one image is too much."""
    if len(part) == 1:
        return None
    halves = run_in_parts(run, part.tensor_split(2))
    done = [half for half in halves if half is not None]
    if len(done) < len(halves):
        return None
    return {name: torch.cat([half[name] for half in done]) for name in done[0]}
