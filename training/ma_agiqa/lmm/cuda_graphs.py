"""Passes of fixed batch sizes, recorded as CUDA graphs and replayed.

A pass of mPLUG-Owl2 is about three thousand kernels. For small batches, launching them one by one
from Python takes longer than running them.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Work = Callable[[Tensor], Tensor]

SIZES = (1, 2, 4, 8, 16, 32)
"""Numbers of images for which a pass is recorded."""

logger = logging.getLogger(__name__)


class Recording:
    """A pass over one batch, recorded as a CUDA graph.

    Args:
        work: the pass, see `BatchGraphs`; it has run before, as libraries allocate on their first
            call.
        given: the batch that it reads, at each replay from the same memory.
        pool: the memory that all recordings share.
    """

    def __init__(self, work: Work, given: Tensor, pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(given.device),
            torch.cuda.graph(self._graph, pool, capture_error_mode="thread_local"),
        ):
            self._made = work(given)

    def replay(self) -> Tensor:
        """Run the pass; the result is overwritten by the next replay of any recording."""
        self._graph.replay()
        return self._made


class BatchGraphs:
    """Work on batches of images, replayed at the next size that was recorded.

    Threads may share it, also with CUDA streams of their own: each call waits for the one before.

    Every size of `SIZES` is recorded here, the largest first, so that traffic never waits for a
    recording and the shared memory grows once. A size that cannot be recorded runs directly. A size
    for which memory does not suffice is never tried again: larger batches run in parts.

    Args:
        work: maps uint8 (B, S, S, 3) on the GPU to (P, B, D) without waiting for the GPU; each
            image's result depends on that image alone.
        image_size: side S.
        device: the GPU.

    Raises:
        torch.OutOfMemoryError: memory does not suffice for the smallest size.
    """

    def __init__(self, work: Work, image_size: int, device: torch.device) -> None:
        self._work = work
        self._device, self._lock = device, threading.Lock()  # recordings share their memory
        self._done = torch.cuda.Event()  # at the end of the call before, whatever its stream
        self._passes: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}
        pool = torch.cuda.graph_pool_handle()
        for size in sorted(SIZES, reverse=True):
            shape = (size, image_size, image_size, 3)
            given = torch.zeros(shape, dtype=torch.uint8, device=device)
            try:
                work(given)
            except torch.OutOfMemoryError:
                if size == min(SIZES):
                    raise
                logger.warning("Too little GPU memory for %d images: batches are divided", size)
                continue
            self._passes[size] = given, self._prepare(given, pool)
        self._done.record(torch.cuda.current_stream(device))

    def _prepare(self, given: Tensor, pool: Any) -> Callable[[], Tensor]:
        try:
            return Recording(self._work, given, pool).replay
        except RuntimeError as error:  # of memory, too: a recording cannot free any meanwhile
            logger.warning("Batches of %d images run without a CUDA graph: %s", len(given), error)
            return lambda: self._work(given)

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, S, S, 3), on any device, to (P, B, D) on the GPU."""
        with self._lock:
            stream = torch.cuda.current_stream(self._device)
            self._done.wait(stream)
            try:
                parts = [self._run(part) for part in images.split(max(self._passes))]
            finally:
                self._done.record(stream)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _run(self, images: Tensor) -> Tensor:
        batch = len(images)
        given, run = self._passes[min(size for size in self._passes if size >= batch)]
        given[:batch].copy_(images, non_blocking=True)  # the rest still holds older images
        return run()[:, :batch].clone()
