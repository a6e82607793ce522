"""The features of a run: opened where they are complete, else made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ma_agiqa.data import RatedImage
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.data.features.embedders import Embedder, InProcessEmbedder, choose_device
from ma_agiqa.data.features.extract import Extraction, extract
from ma_agiqa.data.features.identity import wanted_identity
from ma_agiqa.data.features.source_files import changed_files
from ma_agiqa.data.features.store import Features, FeatureStore, name_some
from ma_agiqa.lmm.sources import embedder_config
from ma_agiqa.torchrun import Processes

if TYPE_CHECKING:  # a training's settings hold those of its augmentation
    from ma_agiqa.train.config import TrainingConfig

__all__ = ["ensure_features", "extract_features", "open_features"]

_WORKERS = 4


def ensure_features(
    config: TrainingConfig, images: Sequence[RatedImage], progress: bool = False
) -> Features:
    """Features of a run's images; what is missing is made first, under torchrun by all processes.

    A complete store is opened without the embedder's weights and without a network.

    Args:
        config: names the embedder, the store's folder and how to fill it.
        images: all images of the run.
        progress: show a bar on stderr, in the main process.

    Raises:
        ConfigError: the scorer expects embeddings of another width.
        CheckpointError: the embedder cannot be loaded.
        DataError: see `extract.extract`.
    """
    extract_features(config, images, progress=progress)
    return FeatureStore(config.feature_folder).features(images)


def extract_features(
    config: TrainingConfig,
    images: Sequence[RatedImage],
    url: str | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Extraction:
    """Fill the store of a run, see `extract.extract`.

    Args:
        config: as in `ensure_features`.
        images: all images of the run.
        url: HOST:PORT of a Triton server whose mPLUG-Owl2 is used; None computes in this process.
        device: where mPLUG-Owl2 runs in this process; by default this process's GPU, or the CPU.
        overwrite: make everything anew.
        progress: show a bar on stderr, in the main process.
    """
    folder, settings = config.feature_folder, config.features
    if url is None and (overwrite or not FeatureStore.exists(folder)):
        _check_width(config)

    def load(processes: Processes) -> Embedder:
        if url is not None:
            return _served(url)
        chosen = device or choose_device(processes.local_index)
        return InProcessEmbedder(config.embedder, settings.dtype, chosen)

    wanted = wanted_identity(config.embedder, settings.dtype)
    sizes = settings.batch_size, settings.workers
    return extract(folder, images, wanted, load, *sizes, overwrite=overwrite, progress=progress)


def open_features(
    folder: str | os.PathLike[str], images: Sequence[RatedImage], wanted: Mapping[str, Any]
) -> Features:
    """Open a complete store, for all of its images or some of them.

    Args:
        folder: of the store.
        images: found by their names.
        wanted: what its identity must be, such as `identity.wanted_identity` gives.

    Raises:
        DataError: no store; another identity, each difference named; an image without complete
            features, or whose file has changed since, named with its row.
    """
    store = FeatureStore(Path(folder))
    store.check_identity(wanted)
    features = store.features(images)
    changed, _ = changed_files(images, store.files()[features.rows], _WORKERS)
    if changed.any():
        named = name_some([image for image, c in zip(images, changed, strict=True) if c])
        raise DataError(
            f"Image files have changed since the features in {folder} were made: {named}. "
            "Run `python -m ma_agiqa features`, which makes these again."
        )
    return features


def _served(url: str) -> Embedder:
    try:
        from ma_agiqa.data.features.served import ServedEmbedder  # Triton's client is an extra
    except ImportError as error:
        raise ConfigError(
            f"--url needs the package {error.name}: pip install 'tritonclient[grpc]'."
        ) from error
    return ServedEmbedder(url)


def _check_width(config: TrainingConfig) -> None:
    """Find out before hours are spent that the scorer expects other embeddings."""
    wanted = config.scorer_config().semantic_dim
    if (width := embedder_config(config.embedder).hidden_size) != wanted:
        raise ConfigError(
            f"scorer.semantic_dim is {wanted}, but the embeddings of {config.embedder!r} have "
            f"{width} values; set it to {width}."
        )
