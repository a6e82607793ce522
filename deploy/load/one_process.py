"""The models called in this process, without a server: what a server is compared with."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from load.generator import batches
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.pipeline import ImageScorer

_BATCHES = (1, 4, 8, 16, 32)


@dataclass(frozen=True, order=True)
class Layout:
    """How one process divides its work.

    Attributes:
        workers: number of batches that are computed at once.
        threads: number of CPU threads for each of them.
        batch: number of images in a batch.
    """

    workers: int
    threads: int
    batch: int

    def __str__(self) -> str:
        at_once = f"{self.workers} at once, " if self.workers > 1 else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"batch {self.batch}, {at_once}{threads} each"


@dataclass(frozen=True)
class Rate:
    """Images per second, and seconds of CPU time per image."""

    images_per_s: float
    cpu_s: float


class OneProcess:
    """The paper's figure as one class, with the scorer in the arithmetic that is served.

    Args:
        scorer: both networks.
    """

    def __init__(self, scorer: ImageScorer) -> None:
        self._score = ImageScorer(scorer.embedder, accelerate(scorer.scorer))
        self.on_gpu = next(scorer.scorer.parameters()).device.type == "cuda"

    def score(self, files: Sequence[bytes]) -> list[float]:
        """Score one batch of encoded images."""
        return self._score(files).score[:, 0].tolist()

    def layouts(self) -> list[Layout]:
        """Every batch size, with the cores on one batch or on one batch each."""
        cores = os.cpu_count() or 1
        divisions = {(2, 1)} if self.on_gpu else {(1, cores), (cores, 1)}
        return [Layout(*division, batch) for division in sorted(divisions) for batch in _BATCHES]

    def time(self, files: Sequence[bytes], layout: Layout, seconds: float) -> Rate:
        """Score batches for about `seconds`, after one that is not counted."""
        parts = batches(files, layout.batch)
        end = 0.0

        def work(worker: int) -> int:
            count = 0
            while count == 0 or time.perf_counter() < end:
                count += len(self.score(parts[(worker + count) % len(parts)]))
            return count

        with ThreadPoolExecutor(
            layout.workers, initializer=torch.set_num_threads, initargs=(layout.threads,)
        ) as pool:
            list(pool.map(work, range(layout.workers)))
            start, start_cpu = time.perf_counter(), time.process_time()
            end = start + seconds
            count = sum(pool.map(work, range(layout.workers)))
            elapsed, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        return Rate(count / elapsed, cpu / count)
