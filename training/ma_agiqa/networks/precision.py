"""float32 that is computed as float32, whatever the process has asked PyTorch for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_libraries: Any = torch.backends
_cudnn, _onednn = _libraries.cudnn, _libraries.mkldnn
_BY_OPERATION = (_libraries.cuda.matmul, _cudnn.conv, _cudnn.rnn, _onednn.matmul, _onednn.conv)
_lock = threading.Lock()
_before: list[tuple[Any, ...]] = []  # one entry for each computation in flight


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute without autocast, TF32 and bfloat16, and leave the process's settings as they were.

    PyTorch has one setting of TF32 for all threads: until the last computation in here has ended,
    other threads compute without it, too.
    """
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        with _lock:
            _before.append(_before[0] if _before else _settings())
            _set(("highest", False) if len(_before[0]) == 2 else ("ieee",) * len(_BY_OPERATION))
        try:
            yield
        finally:
            with _lock:
                before = _before.pop()
                if not _before:
                    _set(before)


def _settings() -> tuple[Any, ...]:
    """The settings of the kind that the process uses: PyTorch refuses to compute with both kinds.

    Returns:
        Those of all matrix products and all convolutions; or one of each operation.
    """
    try:
        return torch.get_float32_matmul_precision(), _cudnn.allow_tf32
    except RuntimeError:
        return tuple(one.fp32_precision for one in _BY_OPERATION)


def _set(values: tuple[Any, ...]) -> None:
    if len(values) == 2:
        torch.set_float32_matmul_precision(values[0])
        _cudnn.allow_tf32 = values[1]
    else:
        for one, precision in zip(_BY_OPERATION, values, strict=True):
            one.fp32_precision = precision
