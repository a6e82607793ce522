"""Where prompt embeddings come from while features are made."""

from collections.abc import Mapping
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ma_agiqa.data.features.identity import describe_embedder
from ma_agiqa.errors import ConfigError
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.mplug_owl2.quantization import weight_format
from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.lmm.weights_hash import weights_sha256

Embeddings = Mapping[str, NDArray[np.float32]]
"""For every prompt, float32 (B, D)."""


class Embedder(Protocol):
    """A frozen mPLUG-Owl2, in this process or on a server; several threads may call it.

    Attributes:
        image_size: side S of its view in pixels.
        max_batch_size: largest number of images in one call; None has no limit.
        in_flight: number of calls that are worth having in flight.
    """

    image_size: int
    max_batch_size: int | None
    in_flight: int

    def identity(self) -> dict[str, Any]:
        """Describe it, see `identity.describe_embedder`."""

    def __call__(self, views: NDArray[np.uint8]) -> Embeddings:
        """Embed views uint8 (B, S, S, 3), RGB."""

    def close(self) -> None:
        """Release it."""


class InProcessEmbedder:
    """mPLUG-Owl2 in this process."""

    max_batch_size: int | None = None
    in_flight = 1

    def __init__(self, source: str, dtype: str, device: str, hashes: FileHashes) -> None:
        """Load it.

        Args:
            source: where its weights come from, as `lmm.sources.build_embedder` takes it.
            dtype: format of its weights, one of `lmm.sources.DTYPES`.
            device: where it runs.
            hashes: hashes of files that are known.

        Raises:
            CheckpointError: the weights cannot be read or do not fit.
        """
        self._source, self._hashes = source, hashes
        self._embedder = build_embedder(source, device, dtype)
        self.image_size = self._embedder.image_size
        self._lock = Lock()

    def identity(self) -> dict[str, Any]:
        """Describe it, with the hash of its weights."""
        return describe_embedder(
            self._source,
            weight_format(self._embedder.model),
            weights_sha256(self._source, self._hashes),
            image_size=self.image_size,
            hidden_size=self._embedder.hidden_size,
        )

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
