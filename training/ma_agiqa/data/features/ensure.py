"""The features of a run's images: those that are in the store, and those that are made now.

Three things find an image. Its position among the images of the run is what callers use. Its row in
the table (`RatedImage.row`) is for messages. Its key, the SHA-256 of its file, is for the store.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm.contrib.concurrent import thread_map

from ma_agiqa.data.features.embedders import Embedder, InProcessEmbedder, choose_device
from ma_agiqa.data.features.extract import BadImage, extract
from ma_agiqa.data.features.settings import FeatureSettings
from ma_agiqa.data.features.store import FeatureStore
from ma_agiqa.data.table import RatedImage, listed
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.identity import EmbedderIdentity
from ma_agiqa.lmm.sources import embedder_config
from ma_agiqa.torchrun import gather, on_main, process_state, require_one_machine

_HASHES = "hashes.json"
_LISTED = 20  # bad images that a message lists


@dataclass(frozen=True)
class Features:
    """Features of N images, by their position among these images.

    Attributes:
        store: where they are.
        keys: key of each image (N,).
        made: number of images whose features were made now, by all processes.
        seconds: time that took, without loading the embedder.
    """

    store: FeatureStore
    keys: Sequence[str]
    made: int = 0
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def embedder(self) -> Mapping[str, Any]:
        """The embedder that made them, see `FeatureStore`."""
        return self.store.embedder

    def read(self, positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Read quality_view uint8 (B, 224, 224, 3), RGB; semantic and coherence float16 (B, D).

        Args:
            positions: positions of B images.
        """
        return self.store.read([self.keys[position] for position in positions])


def ensure_features(
    source: str,
    settings: FeatureSettings,
    folder: Path,
    images: Sequence[RatedImage],
    expected_width: int | None = None,
    *,
    url: str | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Features:
    """Find the features of images, and make those that are missing.

    Only images whose content is not in the store are made; if there are none, the embedder is
    neither loaded nor needed. Under torchrun every process takes its share of the batches, and all
    return when all are done. If it is stopped, the next call continues.

    Args:
        source: where the embedder's weights come from, as `lmm.sources.build_embedder` takes it.
        settings: format of the weights, batch size, number of threads.
        folder: folder of the store, which is made if it does not exist.
        images: all images of the run.
        expected_width: width of an embedding that the scorer takes; None takes any.
        url: HOST:PORT of a Triton server whose embedder is used; None computes in this process.
        device: where the embedder runs in this process; by default this process's GPU, or the CPU.
        overwrite: remove the features that are there.
        progress: show bars on stderr, in the main process.

    Raises:
        ConfigError: the embedder is not the one that the settings name, the scorer expects
            embeddings of another width, or processes run on several machines.
        CheckpointError: the embedder cannot be loaded.
        DataError: the store holds features made with other settings or weights; the disk is full;
            images cannot be read (when all others are done); an embedding is not finite in float16.
    """
    run = _Run(source, settings, folder, images, expected_width)
    keys, pending = on_main(lambda: run.plan(url is None, overwrite, progress))
    if not pending:
        return Features(FeatureStore(folder), keys)
    require_one_machine()
    state = process_state()
    embedder = run.load(url, device or choose_device(max(state.local_process_index, 0)))
    try:
        on_main(lambda: run.prepare(embedder, len(pending), overwrite))
        start = time.perf_counter()
        size = min(settings.batch_size, embedder.max_batch_size or settings.batch_size)
        batches = [
            [images[position] for position in pending[first : first + size]]
            for first in range(0, len(pending), size)
        ][state.process_index :: state.num_processes]
        show = progress and state.is_main_process
        bad = extract(FeatureStore(folder), embedder, batches, settings.workers, show)
    finally:
        embedder.close()
    bad = sorted(gather(bad))
    on_main(lambda: run.check_complete(bad, keys))
    return Features(FeatureStore(folder), keys, len(pending), time.perf_counter() - start)


@dataclass(frozen=True)
class _Run:
    """The steps of `ensure_features`; the main process alone plans, prepares and checks."""

    source: str
    settings: FeatureSettings
    folder: Path
    images: Sequence[RatedImage]
    expected_width: int | None

    @cached_property
    def _wanted(self) -> EmbedderIdentity:
        return EmbedderIdentity.of(self.source, self.settings.dtype)

    def plan(
        self, in_process: bool, overwrite: bool, progress: bool
    ) -> tuple[list[str], list[int]]:
        """Give the key of every image, and the positions of those whose features are missing."""
        there = FeatureStore.exists(self.folder) and not overwrite
        store = FeatureStore(self.folder) if there else None
        if store is not None:
            store.check_identity(self._wanted)
            self._check_width(store.embedder["hidden_size"])
        elif in_process:
            self._check_width(embedder_config(self.source).hidden_size)
        hashes = FileHashes(self.folder / _HASHES)
        how = {"max_workers": self.settings.workers, "desc": "files", "unit": "image", "delay": 2}
        keys = thread_map(partial(_key, hashes), self.images, disable=not progress, **how)
        hashes.save()
        position_of = {key: position for position, key in reversed(list(enumerate(keys)))}
        missing = (p for key, p in position_of.items() if store is None or key not in store)
        return keys, sorted(missing)

    def load(self, url: str | None, device: str) -> Embedder:
        """Load the embedder, or connect to it."""
        if url is None:
            return InProcessEmbedder(self._wanted, device)
        try:
            from ma_agiqa.data.features.served import ServedEmbedder  # Triton's client is an extra
        except ImportError as error:
            raise ConfigError(
                f"--url needs the package {error.name}: pip install 'tritonclient[grpc]'."
            ) from error
        return ServedEmbedder(url)

    def prepare(self, embedder: Embedder, count: int, overwrite: bool) -> None:
        """Make the store if needed; the embedder must fit it and the settings."""
        if found := self._wanted.differences(embedder.identity):
            raise ConfigError(
                f"The embedder is not the one that the settings name: {'; '.join(found)}. Change "
                "`embedder` and `features.dtype`, or use another embedder."
            )
        self._check_width(embedder.hidden_size)
        if overwrite or not FeatureStore.exists(self.folder):
            sizes = embedder.image_size, embedder.hidden_size
            FeatureStore.create(self.folder, embedder.identity, *sizes, count)
        else:
            FeatureStore(self.folder).check_identity(embedder.identity)

    def check_complete(self, bad: Sequence[BadImage], keys: Sequence[str]) -> None:
        """Name the images that have no features now."""
        store, reasons = FeatureStore(self.folder), dict(bad)
        first_row: dict[str, int] = {}
        lines = []
        for image, key in zip(self.images, keys, strict=True):
            row = first_row.setdefault(key, image.row)  # of several with one content, one was read
            if row in reasons:
                lines.append(f"{image.path} (row {image.row}): {reasons[row]}")
            elif key not in store:
                lines.append(f"{image.path} (row {image.row}): changed while it was read.")
        if lines:
            raise DataError(
                f"{len(lines):,} of {len(self.images):,} images cannot be read; the features of "
                "the others are kept. Repair or remove these and run the same command again: "
                + listed(lines, _LISTED)
            )

    def _check_width(self, width: int) -> None:
        if self.expected_width not in (None, width):
            raise ConfigError(
                f"scorer.semantic_dim is {self.expected_width}, but the embeddings of "
                f"{self.source!r} have {width} values; set it to {width}."
            )


def _key(hashes: FileHashes, image: RatedImage) -> str:
    """Hash of a file; the path of a file that cannot be read, which is named later."""
    try:
        return hashes.sha256(image.path)
    except OSError:
        return str(image.path)
