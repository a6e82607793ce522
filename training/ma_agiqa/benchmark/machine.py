"""What the benchmarks share: clocks, counters, and what the machine itself can do.

Every benchmark gives rows: numbers by their names, which contain the unit.
"""

import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Products = Mapping[tuple[int, int, int], int]
"""How often a pass computes products (rows, inner) x (inner, outer), by (rows, inner, outer)."""

Row = dict[str, float | str]

_GEMM_S = 0.3  # how long the products of one shape are measured; the best try counts
_SMALLEST_SHARE = 0.01  # of the operations, for a product to be listed


def median_seconds(
    work: Mapping[str, Callable[[], object]], rounds: int, device: str | torch.device
) -> dict[str, float]:
    """Time several kinds of work, alternating between them; give the median of each."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, task in work.items():
            times[name].append(seconds(task, device))
    return {name: statistics.median(values) for name, values in times.items()}


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


def speed(batch: int, pass_s: float, flop: float, gemm_flop_per_s: float, peak_bytes: int) -> Row:
    """Make the row of a network at one batch size.

    Args:
        batch: number of images in a pass.
        pass_s: time of a pass.
        flop: operations of a pass, see `count_operations`.
        gemm_flop_per_s: rate of bare matrix products on this machine, see `gemm_rate`.
        peak_bytes: peak memory.
    """
    return {
        "batch": batch,
        "s/image": pass_s / batch,
        "images/s": batch / pass_s,
        "GFLOP/image": flop / batch / 1e9,
        "GFLOP/s": flop / pass_s / 1e9,
        "GFLOP/s of bare matrix products": gemm_flop_per_s / 1e9,
        "share of that, %": 100 * flop / pass_s / gemm_flop_per_s,
        "peak memory, GB": peak_bytes / 1e9,
    }


def count_operations(work: Callable[[], object]) -> tuple[int, Products]:
    """Run `work` once and let PyTorch count.

    Returns:
        Operations of all matrix products, attention and convolutions, two for each multiplication
        with its addition; and the matrix products of linear layers that hold at least 1 % of them.
    """
    products: Counter[tuple[int, int, int]] = Counter()

    def mm(left: torch.Size, right: torch.Size, *_: object, **__: object) -> int:
        products[left[0], left[1], right[1]] += 1
        return 2 * left[0] * left[1] * right[1]

    def addmm(_: torch.Size, *sizes: torch.Size, **__: object) -> int:
        return mm(*sizes)

    def int8(*sizes: Any, **_: object) -> int:
        return mm(sizes[0], sizes[3])  # the codes and the packed weight

    aten = torch.ops.aten
    mapping = {aten.mm: mm, aten.addmm: addmm, torch.ops.onednn.qlinear_pointwise: int8}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, sdpa_kernel(SDPBackend.MATH):  # not every fused kernel of attention is counted
        work()
    total = counter.get_total_flops()
    large = {p: n for p, n in products.items() if flop({p: n}) >= _SMALLEST_SHARE * total}
    return total, large


def flop(products: Products) -> int:
    """Operations of matrix products, two for each multiplication with its addition."""
    return sum(2 * rows * inner * outer * times for (rows, inner, outer), times in products.items())


def gemm_rate(products: Products, dtype: torch.dtype, device: str | torch.device) -> float:
    """FLOP/s of bare matrix products of these shapes, weighted as a pass computes them."""
    taken_s = 0.0
    for (rows, inner, outer), times in products.items():
        hidden = torch.randn(rows, inner, device=device).to(dtype)
        weight = torch.randn(outer, inner, device=device).to(dtype)
        tries: list[float] = []
        while len(tries) < 3 or sum(tries) < _GEMM_S:
            tries.append(seconds(lambda: F.linear(hidden, weight), device))  # noqa: B023
        taken_s += times * min(tries[1:])  # the first one allocates memory
    return flop(products) / taken_s


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


def use_threads(threads: int | None) -> None:
    """Compute with this many threads; by default one for each core that this process may use."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def describe(device: str | torch.device) -> str:
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
