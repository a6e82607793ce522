"""What the machine gives at best, and what a piece of work takes: matrix products, time, memory."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

__all__ = ["gemm_rate", "peak_memory_bytes", "restart_peak_memory", "seconds"]

_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices, large enough to reach the rate
_REPEATS = 5
_PEAK = Path("/proc/self/clear_refs")


def gemm_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Measure the rate of a large square matrix product: the best of five, in FLOP/s."""
    side = _SIDE.get(device.type, 2048)
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    times = [seconds(lambda: left @ right, device) for _ in range(1 + _REPEATS)]
    return 2 * side**3 / min(times[1:])


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time `work` until the device has done it."""
    _finish(device)
    start = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - start


def restart_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, where the system can: on a GPU, and in Linux's process table."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PEAK.exists():
        _PEAK.write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Tell the peak since `restart_peak_memory`: of tensors on a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def middle(times: list[float]) -> float:
    """Take the median, which other work on the machine disturbs least."""
    return median(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
