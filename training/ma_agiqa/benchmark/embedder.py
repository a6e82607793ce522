"""Speed of the embedding model, beside what the machine can do and beside the authors' code."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ma_agiqa.benchmark.machine import PeakMemory, finish, gemm_rate, read_from_disk
from ma_agiqa.benchmark.official import OfficialEmbedder
from ma_agiqa.benchmark.operations import cached_flop, gemm_shapes, official_flop
from ma_agiqa.lmm.embedder import PROMPTS, PromptEmbedder
from ma_agiqa.lmm.mplug_owl2.loading import compute_dtype
from ma_agiqa.lmm.sources import build_embedder

__all__ = [
    "BatchSpeed",
    "Comparison",
    "EmbedderSpeed",
    "compare",
    "comparison_text",
    "load",
    "measure_batch",
    "profile_text",
    "random_images",
    "text_of",
    "timed_pass",
]


@dataclass(frozen=True)
class EmbedderSpeed:
    """A loaded embedder.

    Attributes:
        embedder: it.
        dtype: what its weights are kept in.
        device: where it runs.
        load_s: from nothing to ready, the prompts' beginnings included.
        load_peak_bytes: most memory in use meanwhile.
        load_disk_bytes: read from disks meanwhile; near 0 if the files were in memory already.
        flop: operations per image, see `operations`.
    """

    embedder: PromptEmbedder
    dtype: str
    device: str
    load_s: float
    load_peak_bytes: int
    load_disk_bytes: int
    flop: float


@dataclass(frozen=True)
class BatchSpeed:
    """What was measured at a batch size.

    Attributes:
        batch: images.
        seconds: a pass, the median of all.
        fastest_s: the fastest of them.
        flop_per_s: operations of the images, by the median.
        gemm_flop_per_s: of bare matrix products of the same shapes.
        peak_bytes: most memory in use.
        disk_bytes: read from disks in the timed passes: if it is not near 0, the machine has too
            little free memory for the weights, and the disk was measured.
    """

    batch: int
    seconds: float
    fastest_s: float
    flop_per_s: float
    gemm_flop_per_s: float
    peak_bytes: int
    disk_bytes: int

    @property
    def share(self) -> float:
        """Share of the machine's rate that was reached, 0..1."""
        return self.flop_per_s / self.gemm_flop_per_s


@dataclass(frozen=True)
class Comparison:
    """Ours and the authors' code, by turns on the same images.

    Attributes:
        batch: images.
        ours_s, official_s: seconds of every turn.
        official_flop: operations per image of the authors' code.
        difference: largest absolute difference of a feature.
        cosine: smallest cosine of an image's features, ours and theirs.
    """

    batch: int
    ours_s: tuple[float, ...]
    official_s: tuple[float, ...]
    official_flop: float
    difference: float
    cosine: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is, by the medians."""
        return statistics.median(self.official_s) / statistics.median(self.ours_s)


def load(source: str, dtype: str, device: str) -> EmbedderSpeed:
    """Load an embedder, and measure that.

    Raises:
        CheckpointError, ConfigError: see `lmm.sources.build_embedder`.
    """
    memory, disk, start = PeakMemory(device), read_from_disk(), time.perf_counter()
    embedder = build_embedder(source, device, dtype)
    finish(device)
    seconds = time.perf_counter() - start
    flop = cached_flop(embedder.model.config, PROMPTS)
    disk = read_from_disk() - disk
    return EmbedderSpeed(embedder, dtype, device, seconds, memory.read(), disk, flop)


def measure_batch(loaded: EmbedderSpeed, batch: int, rounds: int) -> BatchSpeed:
    """Time passes over random images, after one that is not counted."""
    images = random_images(loaded.embedder, batch)
    memory = PeakMemory(loaded.device)
    timed_pass(loaded, images)
    disk = read_from_disk()
    seconds = [timed_pass(loaded, images)[0] for _ in range(rounds)]
    peak, disk = memory.read(), read_from_disk() - disk
    shapes = gemm_shapes(loaded.embedder.model.config, PROMPTS, batch)
    rate = gemm_rate(shapes, compute_dtype(loaded.dtype, loaded.device), loaded.device)
    median = statistics.median(seconds)
    return BatchSpeed(batch, median, min(seconds), batch * loaded.flop / median, rate, peak, disk)


def compare(
    loaded: EmbedderSpeed, weights: Path, checkout: Path, python: str, batch: int, rounds: int
) -> Comparison:
    """Run ours and the authors' code by turns.

    Args:
        loaded: ours, with a dtype of torch.
        weights: folder that both use.
        checkout: of the authors' repository.
        python: of the environment that it runs in.
        batch: images of a turn.
        rounds: turns of each, after one of each that is not counted.

    Raises:
        ConfigError: the authors' code does not run.
    """
    embedder = loaded.embedder
    images = random_images(embedder, batch)
    pixels = embedder.pixels(images)
    dtype = str(pixels.dtype).removeprefix("torch.")
    ours, theirs = [], []
    with OfficialEmbedder(python, checkout, weights, dtype, loaded.device) as official:
        for _ in range(rounds + 1):
            ours.append(timed_pass(loaded, images))
            theirs.append(official.run(pixels, PROMPTS))
    pairs = [(ours[0][1][name].cpu(), theirs[0][1][name]) for name in PROMPTS]
    cosines = [torch.nn.functional.cosine_similarity(a, b).min().item() for a, b in pairs]
    return Comparison(
        batch,
        tuple(seconds for seconds, _ in ours[1:]),
        tuple(seconds for seconds, _ in theirs[1:]),
        official_flop(embedder.model.config, PROMPTS),
        max((a - b).abs().max().item() for a, b in pairs),
        min(cosines),
    )


def random_images(embedder: PromptEmbedder, batch: int) -> Tensor:
    """Make the same uint8 views (B, S, S, 3) every time."""
    generator = torch.Generator().manual_seed(batch)
    size = (batch, embedder.image_size, embedder.image_size, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def timed_pass(loaded: EmbedderSpeed, images: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Embed once: seconds, and the features."""
    start = time.perf_counter()
    features = loaded.embedder(images)
    finish(loaded.device)
    return time.perf_counter() - start, features


def text_of(loaded: EmbedderSpeed, speeds: Sequence[BatchSpeed]) -> str:
    """Say what was measured, a line for loading and one for each batch size."""
    lines = [
        f"load     {loaded.load_s:.1f} s to ready, {loaded.load_disk_bytes / 1e9:.1f} GB read from "
        f"disk, peak {loaded.load_peak_bytes / 1e9:.2f} GB, weights in {loaded.dtype}",
        f"count    {loaded.flop / 1e9:,.1f} GFLOP per image (formula: ma_agiqa.benchmark."
        "operations)",
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
                "free some memory, or this is the disk's speed"
            )
    return "\n".join(lines)


def profile_text(loaded: EmbedderSpeed, batch: int) -> str:
    """Say which operations take the time of a pass, the longest first."""
    images = random_images(loaded.embedder, batch)
    loaded.embedder(images)
    with torch.profiler.profile(acc_events=True) as profiler:
        timed_pass(loaded, images)
    on_gpu = torch.device(loaded.device).type == "cuda"
    longest = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(longest, row_limit=10, max_name_column_width=40)


def comparison_text(comparison: Comparison) -> str:
    """Say how ours compares with the authors' code."""
    ours, theirs = (
        statistics.median(seconds) / comparison.batch
        for seconds in (comparison.ours_s, comparison.official_s)
    )
    return (
        f"official {theirs:.3f} s/image, ours {ours:.3f} s/image by turns at batch "
        f"{comparison.batch} ({len(comparison.ours_s)} each): {comparison.ratio:.2f}x faster\n"
        f"         {comparison.official_flop / 1e9:,.1f} GFLOP per image there\n"
        f"features largest difference {comparison.difference:.2e}, smallest cosine "
        f"{comparison.cosine:.6f}"
    )
