"""What the machine can do, measured: products of matrices, and memory."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

__all__ = [
    "GemmShape",
    "PeakMemory",
    "describe",
    "finish",
    "gemm_rate",
    "read_from_disk",
    "seconds",
    "use_threads",
]

_GEMM_TRIES_S = 0.3  # how long a shape is measured; the best try counts


@dataclass(frozen=True)
class GemmShape:
    """A product (rows, inner) x (inner, outer) that one pass of a model makes `times` times."""

    rows: int
    inner: int
    outer: int
    times: int

    @property
    def flop(self) -> float:
        """Of all of them: two for each multiplication and addition."""
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
    """Time `work` until the device has done it."""
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - start


def finish(device: str | torch.device) -> None:
    """Wait until a device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """Most memory in use since it was made, in bytes.

    On a GPU what torch had taken there; on a CPU the process's resident memory, mapped files
    included, as Linux counts it (elsewhere 0).
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
        """Look it up."""
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
    with suppress(OSError):
        for line in Path("/proc/self/io").read_text().splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    return 0


def use_threads(threads: int | None) -> int:
    """Compute with this many threads, or with as many as this process may use cores."""
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
