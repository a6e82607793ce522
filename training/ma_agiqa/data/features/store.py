"""The store: a folder of shards, in which features are found by the content of the image's file.

    NAME.safetensors   features of one batch of B images:
                           quality_view   uint8 (B, 224, 224, 3), RGB
                           semantic       float16 (B, D)
                           coherence      float16 (B, D)
                       and, in its header, the keys of the images: SHA-256 of their files
    identity.json      the embedder that made them; its presence makes a store
    hashes.json        SHA-256 of the image files seen, see `file_hashes`

A shard is written whole and renamed, so that it is there or not, whenever a process is killed. Its
name follows from its keys: several processes write into one store without knowing of each other.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ma_agiqa.errors import DataError
from ma_agiqa.files import write_whole
from ma_agiqa.lmm.identity import EmbedderIdentity
from ma_agiqa.settings import to_mapping
from ma_agiqa.tensors import QUALITY_SIZE

_FORMAT = 2  # version of the layout
_ARRAYS = ("quality_view", "semantic", "coherence")
_IDENTITY, _SHARDS, _KEYS = "identity.json", "*.safetensors", "sha256"
_MAKE_AGAIN = "Add --overwrite to `python -m ma_agiqa features`, or set features.folder."

_logger = logging.getLogger(__name__)


class FeatureStore:
    """A store on disk, with the shards that it had when it was opened.

    Attributes:
        folder: where it is.
        embedder: the embedder as identity.json describes it: the fields of `EmbedderIdentity`,
            image_size (side of its view in pixels) and hidden_size (width of an embedding).
        identity: the same, to be compared.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in a folder.

        Raises:
            DataError: its identity is missing, damaged, or of another version.
        """
        self.folder = folder
        try:
            stated = dict(json.loads((folder / _IDENTITY).read_text("utf-8")))
            if (found := stated.get("format")) != _FORMAT:
                raise ValueError(f"their format is {found}, this version reads {_FORMAT}")
            common = {"preprocessing": stated.get("preprocessing")}  # where stores once had it
            self.embedder: Mapping[str, Any] = {**common, **stated["embedder"]}
            self.identity = EmbedderIdentity.from_mapping(self.embedder)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"The features in {folder} cannot be used: {error}. {_MAKE_AGAIN}"
            ) from error
        self._places: dict[str, tuple[str, int]] = {}  # shard and row there, by key
        for shard in sorted(folder.glob(_SHARDS)):
            keys = enumerate(_read_keys(shard))
            self._places |= {key: (shard.name, row) for row, key in keys}
        self._open: dict[str, Any] = {}

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a folder holds a store, complete or not."""
        return (folder / _IDENTITY).is_file()

    @classmethod
    def create(
        cls, folder: Path, identity: EmbedderIdentity, image_size: int, hidden_size: int, count: int
    ) -> "FeatureStore":
        """Make an empty store; the features of an older one in this folder are removed.

        Args:
            folder: is made if it does not exist.
            identity: the embedder.
            image_size, hidden_size: side of its view in pixels, and width of an embedding.
            count: number of images that it is to hold.

        Raises:
            DataError: the disk has no room for that many images, or cannot be written to.
        """
        try:
            (folder / _IDENTITY).unlink(missing_ok=True)
            for shard in folder.glob(_SHARDS):
                shard.unlink()
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise DataError(f"Cannot write to {folder}: {error.strerror}.") from error
        needed = count * (3 * QUALITY_SIZE**2 + 4 * hidden_size)
        if needed > free:
            raise DataError(
                f"The features need {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB "
                "are free. Make room, or set features.folder to another disk."
            )
        sizes = {"image_size": image_size, "hidden_size": hidden_size}
        stated = {"format": _FORMAT, "embedder": {**to_mapping(identity), **sizes}}
        write_whole(folder / _IDENTITY, json.dumps(stated, indent=2) + "\n")
        return cls(folder)

    def __contains__(self, key: object) -> bool:
        """Whether the store has the features of an image file with this SHA-256."""
        return key in self._places

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open shards: a worker process maps them itself."""
        return {**self.__dict__, "_open": {}}

    def check_identity(self, wanted: EmbedderIdentity) -> None:
        """Compare with what a run wants.

        Raises:
            DataError: every difference, and what to do.
        """
        if found := wanted.differences(self.identity):
            raise DataError(
                f"The features in {self.folder} were made by another embedder than the run's: "
                f"{'; '.join(found)}. {_MAKE_AGAIN}"
            )

    def write(self, keys: Sequence[str], values: Mapping[str, NDArray[Any]]) -> None:
        """Write a shard.

        Args:
            keys: keys of the images (B,).
            values: the arrays of a shard, each (B, ...).

        Raises:
            DataError: the disk is full or cannot be written to; no part of the shard is left.
        """
        text = " ".join(keys)
        name = f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        write_whole(self.folder / name, save(dict(values), {_KEYS: text}))

    def read(self, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read the features of images: the arrays of a shard, each (B, ...), in this order.

        Args:
            keys: keys of the images (B,); all must be there.
        """
        found = [(self._shard(name), row) for name, row in (self._places[key] for key in keys)]
        return {n: np.stack([shard.get_slice(n)[row] for shard, row in found]) for n in _ARRAYS}

    def _shard(self, name: str) -> Any:
        """A memory-mapped shard; it stays mapped, without a file descriptor."""
        if name not in self._open:
            self._open[name] = safe_open(self.folder / name, "numpy")
        return self._open[name]


def _read_keys(shard: Path) -> list[str]:
    try:
        with safe_open(shard, "numpy") as file:
            return file.metadata()[_KEYS].split()
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        _logger.warning("%s is damaged (%s); its features are made again.", shard, error)
        return []
