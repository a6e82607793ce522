"""float32 that is computed as float32, whatever the process has asked PyTorch for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cuda, cudnn, mkldnn

_SETTINGS = (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)  # type: ignore[attr-defined]
_lock = threading.Lock()
_before: list[tuple[str, ...]] = []  # one entry for each computation in flight


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute without autocast, TF32 and bfloat16, and leave the process's settings as they were.

    PyTorch has one setting of TF32 for all threads: until the last computation in here has ended,
    other threads compute without it, too.
    """
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        with _lock:
            now = tuple(one.fp32_precision for one in _SETTINGS)
            _before.append(_before[0] if _before else now)
            _set(("ieee",) * len(_SETTINGS))
        try:
            yield
        finally:
            with _lock:
                before = _before.pop()
                if not _before:
                    _set(before)


def _set(precisions: tuple[str, ...]) -> None:
    for one, precision in zip(_SETTINGS, precisions, strict=True):
        one.fp32_precision = precision
