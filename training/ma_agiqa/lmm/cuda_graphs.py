"""Passes of fixed batch sizes, recorded once as CUDA graphs and replayed.

A pass of mPLUG-Owl2 is about three thousand kernels. For small batches, launching them one by one
from Python takes longer than running them.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class BatchGraphs:
    """Work on batches of images, replayed at the next size that was recorded.

    Not thread-safe.

    Args:
        work: maps uint8 (B, S, S, 3) on the GPU to (P, B, D) without waiting for the GPU; each
            image's result depends on that image alone.
        image_size: side S.
        device: the GPU.
        sizes: batch sizes that are recorded at their first use; larger batches run directly.
    """

    def __init__(
        self,
        work: Callable[[Tensor], Tensor],
        image_size: int,
        device: torch.device,
        sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
    ) -> None:
        self._work, self._image_size, self._device = work, image_size, device
        self._sizes = sorted(sizes)
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, S, S, 3), on any device, to (P, B, D) on the GPU."""
        batch = len(images)
        size = next((size for size in self._sizes if size >= batch), None)
        if size is None:
            return self._work(images.to(self._device))
        if size not in self._recorded:
            self._recorded[size] = self._record(size)
        graph, given, made = self._recorded[size]
        given[:batch].copy_(images, non_blocking=True)  # the rest still holds older images
        graph.replay()
        return made[:, :batch].clone()

    def _record(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """Run on a side stream first, as libraries allocate on their first call."""
        shape = (size, self._image_size, self._image_size, 3)
        given = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._work(given)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
                made = self._work(given)
        return graph, given, made
