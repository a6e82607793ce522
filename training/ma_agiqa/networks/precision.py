"""float32 that is computed as float32, whatever the process has asked PyTorch for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_before: list[tuple[str, bool]] = []  # one entry for each computation in flight


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute without autocast, TF32 and bfloat16, and leave the process's settings as they were.

    PyTorch has one setting of TF32 for all threads: until the last computation in here has ended,
    other threads compute without it, too.
    """
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        with _lock:
            now = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
            _before.append(_before[0] if _before else now)
            _set("highest", False)
        try:
            yield
        finally:
            with _lock:
                before = _before.pop()
                if not _before:
                    _set(*before)


def _set(matmul: str, convolutions_in_tf32: bool) -> None:
    # Not `fp32_precision`: PyTorch refuses to compute where the two kinds of settings differ.
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions_in_tf32
