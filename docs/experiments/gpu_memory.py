"""Compute the GPU memory of the served models at the paper's size, without a GPU.

    python docs/experiments/gpu_memory.py

PyTorch's fake tensors have a shape and no contents; the memory of those that are alive at the same
time is added up. That is arithmetic: what CUDA and its libraries hold (about 0.5 GB a process), and
what the allocator loses by rounding, come on top.
"""

import copy
import logging
import sys
import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ma_agiqa.lmm import cuda_graphs
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config, MPlugOwl2Model, quantization
from ma_agiqa.lmm.mplug_owl2.loading import FLOATS, quantize_model
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

GPU = torch.device("cuda:0")
BATCHES = (1, 8, 32)


class Alive(TorchDispatchMode):
    """Adds up the memory of the tensors on the GPU that were made here and are still in use."""

    def __init__(self, before: list[torch.UntypedStorage]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {id(storage) for storage in before}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.device == GPU:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._known:
            self._known.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, id(storage), storage.nbytes())

    def _freed(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.now -= size


def gigabytes(module: torch.nn.Module, passes: list[Callable[[], object]]) -> str:
    """Weights of a module, and what each of its passes has alive in addition, at most."""
    storages = [t.untyped_storage() for t in (*module.parameters(), *module.buffers())]
    weights = sum(storage.nbytes() for storage in storages) / 1e9
    peaks = []
    for one in passes:
        with Alive(storages) as alive, torch.no_grad():
            one()
        peaks.append(f"{weights + alive.peak / 1e9:6.1f}")
    return f"{weights:8.1f}   {''.join(peaks)}\n"


def embedder(dtype: str) -> str:
    """mPLUG-Owl2 with the beginnings of its prompts."""
    torch.set_default_dtype(FLOATS.get(dtype, torch.float16))
    with torch.device(GPU):
        model = MPlugOwl2Model(MPlugOwl2Config())
    torch.set_default_dtype(torch.float32)
    network = PromptEmbedder(model if dtype in FLOATS else quantize_model(model, dtype))
    views = [torch.zeros(n, 448, 448, 3, dtype=torch.uint8) for n in BATCHES]
    return gigabytes(model, [lambda v=v: network._embed(v) for v in views])  # type: ignore[misc]


def scorer(model: MAAGIQA) -> str:
    """One version of the scorer."""
    network = copy.copy(model).to(GPU)
    views = [torch.zeros(n, 224, 224, 3, dtype=torch.uint8, device=GPU) for n in BATCHES]
    inputs = [(view, *torch.zeros(2, len(view), 4096, device=GPU)) for view in views]
    return gigabytes(network, [lambda i=i: network(*i) for i in inputs])  # type: ignore[misc]


def main() -> None:
    logging.disable()  # of recordings, which need a GPU
    cuda_graphs.SIZES = (1,)
    quantization._ROWS_AT_ONCE = 2**20  # there are no caches to stay in
    # Without a GPU PyTorch would choose the attention that keeps every weight in memory.
    F.scaled_dot_product_attention = lambda query, *_, **__: torch.empty_like(query)
    sys.stdout.write(f"GB                  weights   batches of {BATCHES}\n")
    for dtype in ("float16", "int8", "int4", "fp8"):
        with FakeTensorMode(allow_non_fake_inputs=True):
            sys.stdout.write(f"embedder {dtype:11}{embedder(dtype)}")
    for dtype in ("float16", "float32"):
        fast = accelerate(MAAGIQA(MAAGIQAConfig()).eval(), getattr(torch, dtype), gpu=True)
        with FakeTensorMode(allow_non_fake_inputs=True):
            sys.stdout.write(f"scorer   {dtype:11}{scorer(fast)}")


if __name__ == "__main__":
    main()
