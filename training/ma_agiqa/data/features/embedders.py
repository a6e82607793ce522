"""Where prompt embeddings come from while features are made."""

from collections.abc import Mapping
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.identity import EmbedderIdentity
from ma_agiqa.lmm.sources import build_embedder

Embeddings = Mapping[str, NDArray[np.float32]]
"""For every prompt, float32 (B, D)."""


class Embedder(Protocol):
    """A frozen mPLUG-Owl2, in this process or on a server; several threads may call it.

    Attributes:
        identity: what it is.
        image_size: side S of its view in pixels.
        hidden_size: width D of an embedding.
        max_batch_size: largest number of images in one call; None has no limit.
        in_flight: number of calls that are worth having in flight.
    """

    identity: EmbedderIdentity
    image_size: int
    hidden_size: int
    max_batch_size: int | None
    in_flight: int

    def __call__(self, views: NDArray[np.uint8]) -> Embeddings:
        """Embed views uint8 (B, S, S, 3), RGB."""

    def close(self) -> None:
        """Release it."""


class InProcessEmbedder:
    """mPLUG-Owl2 in this process.

    Args:
        identity: names the source and the dtype; as `EmbedderIdentity.of` gives it.
        device: where it runs.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
    """

    max_batch_size: int | None = None
    in_flight = 1

    def __init__(self, identity: EmbedderIdentity, device: str) -> None:
        self._embedder = build_embedder(identity.source, device, identity.dtype or "float32")
        # If the hub's files were not here, they are now.
        self.identity = EmbedderIdentity.of(identity.source, identity.dtype)
        self.image_size, self.hidden_size = self._embedder.image_size, self._embedder.hidden_size
        self._lock = Lock()

    def __call__(self, views: NDArray[np.uint8]) -> Embeddings:
        """Embed views uint8 (B, S, S, 3), RGB; one call at a time is computed."""
        with self._lock:
            outputs = self._embedder(torch.from_numpy(views))
            return {name: values.float().cpu().numpy() for name, values in outputs.items()}

    def close(self) -> None:
        """Nothing is to be released."""


def choose_device(local_index: int) -> str:
    """Choose the GPU of a process, another one for each; the CPU where there is none.

    Raises:
        ConfigError: more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return "cpu"
    if local_index >= torch.cuda.device_count():
        raise ConfigError(
            f"Process {local_index + 1} on this machine has no GPU: there are "
            f"{torch.cuda.device_count()}. Give that number as torchrun's --nproc-per-node."
        )
    return f"cuda:{local_index}"
