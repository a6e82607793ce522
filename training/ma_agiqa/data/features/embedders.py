"""Where prompt embeddings come from while features are made."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ma_agiqa.errors import ConfigError
from ma_agiqa.data.features.identity import identify
from ma_agiqa.lmm.sources import build_embedder

__all__ = ["Embedder", "Embeddings", "InProcessEmbedder", "choose_device"]

Embeddings = Mapping[str, NDArray[np.float32]]
"""For every prompt, float32 (B, D)."""


class Embedder(Protocol):
    """A frozen mPLUG-Owl2 somewhere.

    Attributes:
        image_size: side S of its view in pixels.
        max_batch_size: most images of one call; None has no limit of its own.
        in_flight: calls that it can use at once.
    """

    image_size: int
    max_batch_size: int | None
    in_flight: int

    def identity(self) -> dict[str, Any]:
        """Its part of a store's identity, see `identity.describe_embedder`."""

    def submit(self, views: NDArray[np.uint8]) -> "Future[Embeddings]":
        """Embed views uint8 (B, S, S, 3), RGB; returns at once."""

    def close(self) -> None:
        """Give it up."""


class InProcessEmbedder:
    """mPLUG-Owl2 in this process, computing in a thread of its own."""

    max_batch_size = None
    in_flight = 2  # one is computed while the next one waits

    def __init__(self, source: str, dtype: str, device: str) -> None:
        """Load it.

        Args:
            source: of its weights, as `lmm.sources.build_embedder` takes it.
            dtype: what its weights are kept in, of `lmm.sources.DTYPES`.
            device: where it runs.

        Raises:
            CheckpointError: the weights cannot be read or do not fit.
        """
        self._source = source
        self._embedder = build_embedder(source, device, dtype)
        self.image_size = self._embedder.image_size
        self._thread = ThreadPoolExecutor(1)

    def identity(self) -> dict[str, Any]:
        """Its identity, with the hash of every parameter."""
        return identify(self._source, self._embedder)

    def submit(self, views: NDArray[np.uint8]) -> "Future[Embeddings]":
        """Embed views uint8 (B, S, S, 3), RGB; returns at once."""
        return self._thread.submit(self._embed, views)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _embed(self, views: NDArray[np.uint8]) -> Embeddings:
        outputs = self._embedder(torch.from_numpy(views))
        return {name: values.float().cpu().numpy() for name, values in outputs.items()}


def choose_device(local_index: int) -> str:
    """The GPU of a process, one for each on the machine; the CPU where there is none.

    Raises:
        ConfigError: more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return "cpu"
    if local_index >= torch.cuda.device_count():
        raise ConfigError(
            f"Process {local_index + 1} on this machine has no GPU: there are "
            f"{torch.cuda.device_count()}. Give torchrun --nproc-per-node as many."
        )
    return f"cuda:{local_index}"
