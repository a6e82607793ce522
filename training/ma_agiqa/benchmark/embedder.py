"""Speed of the embedder, next to bare matrix products of the same shapes."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ma_agiqa.benchmark.machine import PeakMemory, finish, gemm_rate, read_from_disk
from ma_agiqa.benchmark.operations import count_operations
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2.loading import compute_dtype
from ma_agiqa.lmm.sources import build_embedder


@dataclass(frozen=True)
class LoadedEmbedder:
    """An embedder, and what loading it took.

    Attributes:
        embedder: the embedder, ready to use.
        dtype: format of its weights, of `lmm.sources.DTYPES`.
        device: its device.
        load_s: seconds until it was ready, the constant beginnings of the prompts included.
        load_peak_bytes: peak memory while loading.
        load_disk_bytes: bytes read from disk while loading; near 0 if the files were in memory.
    """

    embedder: PromptEmbedder
    dtype: str
    device: str
    load_s: float
    load_peak_bytes: int
    load_disk_bytes: int


@dataclass(frozen=True)
class BatchSpeed:
    """What was measured at one batch size.

    Attributes:
        batch: number of images in a pass.
        seconds: median time of a pass.
        fastest_s: time of the fastest pass.
        flop: operations of a pass, see `operations.count_operations`.
        gemm_flop_per_s: rate of bare matrix products of the same shapes.
        peak_bytes: peak memory.
        disk_bytes: bytes read from disks in the timed passes. If it is not near 0, the machine has
            too little free memory for the weights, and the disk was measured.
    """

    batch: int
    seconds: float
    fastest_s: float
    flop: int
    gemm_flop_per_s: float
    peak_bytes: int
    disk_bytes: int

    @property
    def flop_per_s(self) -> float:
        """Operations per second, by the median."""
        return self.flop / self.seconds

    @property
    def share(self) -> float:
        """Share of the machine's rate that was reached, 0 to 1."""
        return self.flop_per_s / self.gemm_flop_per_s


def load(source: str, dtype: str, device: str) -> LoadedEmbedder:
    """Load an embedder and measure the loading.

    Args:
        source: source of the weights, as `lmm.sources.build_embedder` takes it.
        dtype: format of the weights, of `lmm.sources.DTYPES`.
        device: device of the embedder.

    Raises:
        CheckpointError, ConfigError: see `lmm.sources.build_embedder`.
    """
    memory, disk, start = PeakMemory(device), read_from_disk(), time.perf_counter()
    embedder = build_embedder(source, device, dtype)
    finish(device)
    seconds = time.perf_counter() - start
    return LoadedEmbedder(embedder, dtype, device, seconds, memory.read(), read_from_disk() - disk)


def measure_batch(loaded: LoadedEmbedder, batch: int, rounds: int) -> BatchSpeed:
    """Time passes over random images, after one that is not counted.

    Args:
        loaded: the embedder.
        batch: number of images in a pass.
        rounds: number of passes that are timed.
    """
    embedder, images = loaded.embedder, random_images(loaded.embedder, batch)
    pixels = torch.rand(batch, 3, embedder.image_size, embedder.image_size, device=loaded.device)
    with torch.inference_mode():
        flop, shapes = count_operations(lambda: embedder.embed_pixels(pixels))
    memory = PeakMemory(loaded.device)
    timed_pass(loaded, images)
    disk = read_from_disk()
    seconds = [timed_pass(loaded, images)[0] for _ in range(rounds)]
    peak, disk = memory.read(), read_from_disk() - disk
    rate = gemm_rate(shapes, compute_dtype(loaded.dtype, loaded.device), loaded.device)
    return BatchSpeed(batch, statistics.median(seconds), min(seconds), flop, rate, peak, disk)


def random_images(embedder: PromptEmbedder, batch: int) -> Tensor:
    """Make semantic views, uint8 (batch, S, S, 3): the same ones at every call."""
    generator = torch.Generator().manual_seed(batch)
    size = (batch, embedder.image_size, embedder.image_size, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def timed_pass(loaded: LoadedEmbedder, images: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Embed once; give the seconds and the embeddings."""
    start = time.perf_counter()
    embeddings = loaded.embedder(images)
    finish(loaded.device)
    return time.perf_counter() - start, embeddings


def summary(loaded: LoadedEmbedder, speeds: Sequence[BatchSpeed]) -> str:
    """Describe loading in one line, and each batch size in another."""
    lines = [
        f"load     {loaded.load_s:.1f} s to ready, {loaded.load_disk_bytes / 1e9:.1f} GB read from "
        f"disk, peak {loaded.load_peak_bytes / 1e9:.2f} GB, weights in {loaded.dtype}",
        f"count    {speeds[0].flop / speeds[0].batch / 1e9:,.1f} GFLOP per image",
    ]
    for speed in speeds:
        lines.append(
            f"batch {speed.batch:<2} {speed.seconds / speed.batch:.3f} s/image, "
            f"{speed.batch / speed.seconds:.2f} images/s (fastest pass {speed.fastest_s:.3f} s): "
            f"{speed.flop_per_s / 1e9:,.1f} GFLOP/s, {speed.share:.0%} of the "
            f"{speed.gemm_flop_per_s / 1e9:,.1f} GFLOP/s of bare matrix products; "
            f"peak {speed.peak_bytes / 1e9:.2f} GB"
        )
        if speed.disk_bytes > 2**27:
            lines.append(
                f"         {speed.disk_bytes / 1e9:.1f} GB were read from disk in these passes: "
                "free some memory, or the disk is what is measured"
            )
    return "\n".join(lines)


def profile(loaded: LoadedEmbedder, batch: int) -> str:
    """List the operations that take the most time of a pass, the slowest first."""
    images = random_images(loaded.embedder, batch)
    loaded.embedder(images)
    with torch.profiler.profile(acc_events=True) as profiler:
        timed_pass(loaded, images)
    on_gpu = torch.device(loaded.device).type == "cuda"
    slowest = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(slowest, row_limit=10, max_name_column_width=40)
