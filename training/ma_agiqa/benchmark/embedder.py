"""Speed of the embedder, next to bare matrix products of the same shapes."""

import time

import torch
from torch import Tensor

from ma_agiqa.benchmark.machine import (
    PeakMemory,
    Row,
    count_operations,
    finish,
    gemm_rate,
    median_seconds,
    read_from_disk,
    speed,
)
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2.loading import compute_dtype
from ma_agiqa.lmm.sources import build_embedder

READ = "read from disk, GB"
"""Of a row: if it is not near 0 in timed passes, the machine has too little free memory for the
weights, and the disk was measured."""


def load(source: str, dtype: str, device: str) -> tuple[PromptEmbedder, Row]:
    """Load an embedder and measure the loading.

    Args:
        source: source of the weights, as `lmm.sources.build_embedder` takes it.
        dtype: format of the weights, of `lmm.sources.DTYPES`.
        device: device of the embedder.

    Returns:
        The embedder, and a row of what it took until it was ready, the constant beginnings of the
        prompts included.

    Raises:
        CheckpointError, ConfigError: see `lmm.sources.build_embedder`.
    """
    memory, disk, start = PeakMemory(device), read_from_disk(), time.perf_counter()
    embedder = build_embedder(source, device, dtype)
    finish(device)
    return embedder, {
        "load, s": time.perf_counter() - start,
        "peak memory, GB": memory.read() / 1e9,
        READ: (read_from_disk() - disk) / 1e9,
    }


def measure_batch(embedder: PromptEmbedder, dtype: str, batch: int, rounds: int) -> Row:
    """Time passes over random images, after one that is not counted.

    Args:
        embedder: the embedder.
        dtype: format of its weights, of `lmm.sources.DTYPES`.
        batch: number of images in a pass.
        rounds: number of passes that are timed.
    """
    images, device = random_images(embedder, batch), embedder.model.device
    pixels = torch.rand(batch, 3, embedder.image_size, embedder.image_size, device=device)
    with torch.inference_mode():
        flop, products = count_operations(lambda: embedder.embed_pixels(pixels))
    memory = PeakMemory(device)
    embedder(images)
    disk = read_from_disk()
    pass_s = median_seconds({"pass": lambda: embedder(images)}, rounds, device)["pass"]
    peak, disk = memory.read(), read_from_disk() - disk
    rate = gemm_rate(products, compute_dtype(dtype, device), device)
    return {**speed(batch, pass_s, flop, rate, peak), READ: disk / 1e9}


def random_images(embedder: PromptEmbedder, batch: int) -> Tensor:
    """Make semantic views, uint8 (batch, S, S, 3): the same ones at every call."""
    generator = torch.Generator().manual_seed(batch)
    size = (batch, embedder.image_size, embedder.image_size, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def profile(embedder: PromptEmbedder, batch: int) -> str:
    """List the operations that take the most time of a pass, the slowest first."""
    images = random_images(embedder, batch)
    embedder(images)
    with torch.profiler.profile(acc_events=True) as profiler:
        embedder(images)
        finish(embedder.model.device)
    on_gpu = embedder.model.device.type == "cuda"
    slowest = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(slowest, row_limit=10, max_name_column_width=40)
