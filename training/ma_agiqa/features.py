"""What the networks need of each image, made once: quality views and prompt embeddings.

mPLUG-Owl2 is frozen (paper §3.2), so its embeddings are computed once per image and kept in a
folder of memory-mapped arrays:

    quality_view.npy   uint8   (N, 224, 224, 3)
    semantic.npy       float32 (N, D)
    coherence.npy      float32 (N, D)
    identity.json      the embedder and the images they were made from

Features made by another embedder, or from other images, are never used.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ma_agiqa.datasets import RatedImage
from ma_agiqa.errors import DataError, ImageError
from ma_agiqa.preprocessing import QUALITY_SIZE, decode, quality_view, semantic_view
from ma_agiqa.prompt_embedding import PROMPTS, PromptEmbedder

__all__ = ["Augmentation", "Embedder", "Features", "ScorerDataset", "identify", "prepare"]

Embedder = Callable[[Tensor], Mapping[str, Tensor]]
"""uint8 views (B, S, S, 3) -> "semantic" and "coherence", float32 (B, D) each (Eq. 3)."""

_ARRAYS = ("quality_view", "semantic", "coherence")
_IDENTITY = "identity.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """Arrays over N images, in the order of the images they were prepared from.

    Attributes:
        quality_view: uint8 (N, 224, 224, 3), RGB.
        semantic, coherence: float32 (N, D).
    """

    quality_view: NDArray[np.uint8]
    semantic: NDArray[np.float32]
    coherence: NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the quality view while training; the embeddings stay those of the image.

    Attributes:
        rotation_probability: of a turn by 90, 180 or 270 degrees (paper's code: 0.7).
        vertical_flip_probability: upside down (paper's code: 0.7).
        horizontal_flip_probability: left to right (paper's code: 0).
    """

    rotation_probability: float = 0.7
    vertical_flip_probability: float = 0.7
    horizontal_flip_probability: float = 0.0

    def __call__(self, view: Tensor) -> Tensor:
        """Change one view (H, W, 3) with torch's random numbers."""
        turn, vertical, horizontal = torch.rand(3).tolist()
        if turn < self.rotation_probability:
            view = view.rot90(int(torch.randint(1, 4, ())), (0, 1))
        if vertical < self.vertical_flip_probability:
            view = view.flip(0)
        if horizontal < self.horizontal_flip_probability:
            view = view.flip(1)
        return view.contiguous()


class ScorerDataset(Dataset[dict[str, Tensor]]):
    """The samples of one part: quality_view, semantic, coherence and labels (the MOS)."""

    def __init__(
        self,
        features: Features,
        indices: Sequence[int],
        mos: Sequence[float],
        augmentation: Augmentation | None = None,
    ) -> None:
        self._features, self._indices = features, list(indices)
        self._mos, self._augmentation = list(mos), augmentation

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        row = self._indices[position]
        view = torch.from_numpy(np.array(self._features.quality_view[row]))
        return {
            "quality_view": self._augmentation(view) if self._augmentation else view,
            "semantic": torch.from_numpy(np.array(self._features.semantic[row])),
            "coherence": torch.from_numpy(np.array(self._features.coherence[row])),
            "labels": torch.tensor(self._mos[position], dtype=torch.float32),
        }


def identify(source: str, embedder: PromptEmbedder) -> dict[str, Any]:
    """What makes an embedder's outputs its own.

    Args:
        source: where its weights came from, for people.
        embedder: every parameter of its model, its prompts and its view's size count.
    """
    digest = hashlib.sha256()
    for name, value in sorted(embedder.model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return {
        "source": source,
        "image_size": embedder.image_size,
        "hidden_size": embedder.hidden_size,
        "prompts": {name: list(ids) for name, ids in PROMPTS.items()},
        "weights_sha256": digest.hexdigest(),
    }


def prepare(
    folder: str | os.PathLike[str],
    images: Sequence[RatedImage],
    embedder: Embedder,
    identity: Mapping[str, Any],
    semantic_size: int,
    batch_size: int = 32,
    progress: bool = False,
) -> Features:
    """Compute the features of images, or take those that the folder holds already.

    Args:
        folder: of the cache; replaced when it was made by another embedder or of other images.
        images: in the order wanted.
        embedder: computes the prompt embeddings.
        identity: tells embedders apart; plain values.
        semantic_size: side of the embedder's view in pixels.
        batch_size: images per call of the embedder.
        progress: show a bar on stderr.

    Raises:
        DataError: an image cannot be decoded; names the file.
    """
    folder = Path(folder)
    wanted = {"embedder": dict(identity), "images": len(images), "sha256": _hash_files(images)}
    if _holds(folder, wanted):
        _logger.info("Using the features in %s.", folder)
        return _open(folder)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _fill(part, images, embedder, semantic_size, batch_size, progress)
    (part / _IDENTITY).write_text(json.dumps(wanted, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return _open(folder)


def read_views(
    image: RatedImage, semantic_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Decode an image into its quality view and its semantic view.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    try:
        rgb = decode(image.path.read_bytes())
    except (OSError, ImageError) as error:
        raise DataError(f"{image.path}: {error}") from error
    return quality_view(rgb), semantic_view(rgb, semantic_size)


def _fill(
    part: Path,
    images: Sequence[RatedImage],
    embedder: Embedder,
    semantic_size: int,
    batch_size: int,
    progress: bool,
) -> None:
    shape = (len(images), QUALITY_SIZE, QUALITY_SIZE, 3)
    views = open_memmap(part / "quality_view.npy", mode="w+", dtype=np.uint8, shape=shape)
    embeddings: dict[str, list[NDArray[np.float32]]] = {"semantic": [], "coherence": []}
    bar = tqdm(total=len(images), desc="features", unit="image", disable=not progress)
    for start, batch in _batches(images, batch_size):
        pairs = [read_views(image, semantic_size) for image in batch]
        views[start : start + len(batch)] = np.stack([quality for quality, _ in pairs])
        with torch.inference_mode():
            outputs = embedder(torch.from_numpy(np.stack([semantic for _, semantic in pairs])))
        for name, collected in embeddings.items():
            collected.append(outputs[name].float().cpu().numpy())
        bar.update(len(batch))
    bar.close()
    views.flush()
    for name, collected in embeddings.items():
        np.save(part / f"{name}.npy", np.concatenate(collected))


def _batches(images: Sequence[RatedImage], size: int) -> Iterator[tuple[int, Sequence[RatedImage]]]:
    for start in range(0, len(images), size):
        yield start, images[start : start + size]


def _hash_files(images: Sequence[RatedImage]) -> str:
    digest = hashlib.sha256()
    for image in images:
        try:
            content = hashlib.sha256(image.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"Cannot read {image.path}: {error.strerror}.") from error
        digest.update(f"{image.name}\t{content}\n".encode())
    return digest.hexdigest()


def _holds(folder: Path, wanted: Mapping[str, Any]) -> bool:
    try:
        found = json.loads((folder / _IDENTITY).read_text())
    except (OSError, ValueError):
        return False
    if found != wanted:
        different = [name for name in wanted if found.get(name) != wanted[name]]
        _logger.warning("The features in %s differ in %s: made again.", folder, different)
    return bool(found == wanted)


def _open(folder: Path) -> Features:
    return Features(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS))
