"""A GPU that is not there: PyTorch's fake tensors, which have a device, a shape and a type only.

What would mix two devices, or wait for the GPU in the middle of a pass, raises. Kernels, memory,
streams and the rules of recording are not exercised.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_impls import op_implementations_dict
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConverter, FakeTensorMode

from ma_agiqa.lmm import cuda_graphs

DEVICE = torch.device("cuda:0")


class StandInRecording:
    """In place of `cuda_graphs.Recording`: computes at each replay, into the same memory."""

    def __init__(
        self, work: Callable[[Tensor], Tensor], given: Tensor, pool: tuple[int, int]
    ) -> None:
        self._work, self._given, self._made = work, given, work(given)

    def replay(self) -> Tensor:
        return self._made.copy_(self._work(self._given))


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """Replace a module's tensors. PyTorch exchanges their contents, which fakes do not have."""
    for child in module.children():
        _apply(child, change)
    for name, value in module._parameters.items():
        if value is not None:
            module._parameters[name] = nn.Parameter(change(value), value.requires_grad)
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = change(value)
    return module


def _copy(tensor: FakeTensor, _: object) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


@contextmanager
def fake_gpu(reads: bool = False) -> Iterator[None]:
    """Make every new tensor a fake one.

    Args:
        reads: whether numbers may be read from tensors, which waits for the GPU; all are 1.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs, "Recording", StandInRecording)
        patch.setattr(cuda_graphs, "SIZES", (1, 2))
        patch.setattr(nn.Module, "_apply", _apply)
        patch.setattr(FakeTensor, "__deepcopy__", _copy, raising=False)
        patch.setattr(torch.cuda, "get_device_capability", lambda _=None: (9, 0))
        for name in ("synchronize", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda _=None: None)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda _=None: 0)
        patch.setattr(torch.cuda, "current_stream", lambda _=None: None)
        patch.setattr(torch.cuda, "Event", Mock)
        # Known numbers would be moved to a real GPU.
        convert = FakeTensorConverter.from_real_tensor
        patch.setattr(
            FakeTensorConverter,
            "from_real_tensor",
            lambda *args, make_constant=False, **options: convert(*args, **options),
        )
        if reads:
            read = torch.ops.aten._local_scalar_dense.default
            patch.setitem(op_implementations_dict, read, lambda *_: 1)
            patch.setattr(FakeTensor, "numpy", lambda one: np.ones(one.shape), raising=False)
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
