"""What the machine can do, measured: products of matrices, and memory."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F

_GEMM_TRIES_S = 0.3  # how long a shape is measured; the best try counts


@dataclass(frozen=True)
class GemmShape:
    """A product (rows, inner) x (inner, outer) that one pass of a model computes `times` times."""

    rows: int
    inner: int
    outer: int
    times: int

    @property
    def flop(self) -> float:
        """Operations of all of them, two for each multiplication and addition."""
        return 2.0 * self.rows * self.inner * self.outer * self.times


def gemm_rate(shapes: Sequence[GemmShape], dtype: torch.dtype, device: str | torch.device) -> float:
    """FLOP/s of bare matrix products of these shapes, weighted as a pass makes them."""
    taken_s = sum(shape.times * _best_time(shape, dtype, device) for shape in shapes)
    return sum(shape.flop for shape in shapes) / taken_s


def _best_time(shape: GemmShape, dtype: torch.dtype, device: str | torch.device) -> float:
    hidden = torch.randn(shape.rows, shape.inner, device=device).to(dtype)
    weight = torch.randn(shape.outer, shape.inner, device=device).to(dtype)
    tries = [seconds(lambda: F.linear(hidden, weight), device)]  # the first one is not counted
    start = time.perf_counter()
    while len(tries) < 3 or time.perf_counter() - start < _GEMM_TRIES_S:
        tries.append(seconds(lambda: F.linear(hidden, weight), device))
    return min(tries[1:])


def seconds(work: Callable[[], object], device: str | torch.device) -> float:
    """Time `work` until the device has finished it."""
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - start


def finish(device: str | torch.device) -> None:
    """Wait until a device has finished all its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """Peak memory since this object was made, in bytes.

    On a GPU: what torch allocated there. On a CPU: the resident memory of the process, mapped files
    included, from Linux's own peak counter, which no library resets (elsewhere 0).
    """

    def __init__(self, device: str | torch.device) -> None:
        self._gpu = torch.device(device).type == "cuda"
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        self._device = device

    def read(self) -> int:
        """Give the peak so far."""
        if self._gpu:
            return torch.cuda.max_memory_allocated(self._device)
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0


def read_from_disk() -> int:
    """Bytes that this process has read from disks so far, mapped files included (Linux; else 0).

    Weights that do not fit into memory are read again at every pass.
    """
    process = psutil.Process()
    return process.io_counters().read_bytes if hasattr(process, "io_counters") else 0


def use_threads(threads: int | None) -> int:
    """Compute with this many threads; by default one for each core that this process may use."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    return torch.get_num_threads()


def describe(device: str) -> str:
    """Name the machine in a line."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} threads, no GPU in use, torch {torch.__version__}"


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "CPU"
