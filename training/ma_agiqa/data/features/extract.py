"""Make the features of image files: decode them, embed them, write shards.

A batch is the unit of work: it is embedded in one call, and its features become one shard. After a
kill the remaining batches are the same as before, so the features equal those of an uninterrupted
run, bit for bit.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ma_agiqa.data.features.embedders import Embedder, Embeddings
from ma_agiqa.data.features.store import FeatureStore
from ma_agiqa.data.table import RatedImage
from ma_agiqa.errors import DataError, ImageError
from ma_agiqa.images.views import decode, quality_view, semantic_view

BadImage = tuple[int, str]
"""Row in the table of an image that cannot be read, and the reason."""

_BATCHES_AHEAD = 2  # that are decoded while others are embedded


@dataclass(frozen=True)
class _Views:
    """One image, decoded.

    Attributes:
        image: row of the table.
        key: SHA-256 of the file.
        quality: uint8 (224, 224, 3), RGB.
        semantic: uint8 (S, S, 3), RGB.
    """

    image: RatedImage
    key: str
    quality: NDArray[np.uint8]
    semantic: NDArray[np.uint8]


def extract(
    store: FeatureStore,
    embedder: Embedder,
    batches: Sequence[Sequence[RatedImage]],
    workers: int,
    progress: bool,
) -> list[BadImage]:
    """Make the features of batches of images.

    Args:
        store: gets one shard for every batch.
        embedder: computes the embeddings.
        batches: the images.
        workers: number of threads that read and decode images.
        progress: show a bar on stderr.

    Returns:
        The images that cannot be read; the others of their batch are made.

    Raises:
        DataError: the disk is full, or an embedding is not finite in float16.
    """
    bad: list[BadImage] = []
    readers = ThreadPoolExecutor(workers)
    pool = ThreadPoolExecutor(embedder.in_flight + _BATCHES_AHEAD)
    total = sum(map(len, batches))
    try:
        work = partial(_make_shard, store, embedder, readers)
        with tqdm(total=total, desc="features", unit="image", disable=not progress) as bar:
            for batch, unreadable in zip(batches, pool.map(work, batches), strict=True):
                bad += unreadable
                bar.update(len(batch))
    finally:
        pool.shutdown(cancel_futures=True)
        readers.shutdown(cancel_futures=True)
    return bad


def _make_shard(
    store: FeatureStore,
    embedder: Embedder,
    readers: ThreadPoolExecutor,
    batch: Sequence[RatedImage],
) -> list[BadImage]:
    """Write the shard of a batch; returns the images that cannot be read."""
    found = list(readers.map(partial(_read, side=embedder.image_size), batch))
    views = [one for one in found if isinstance(one, _Views)]
    if views:
        embeddings = _halved(embedder(np.stack([view.semantic for view in views])), views)
        quality = np.stack([view.quality for view in views])
        store.write([view.key for view in views], {"quality_view": quality, **embeddings})
    return [one for one in found if not isinstance(one, _Views)]


def _read(image: RatedImage, side: int) -> _Views | BadImage:
    try:
        data = image.path.read_bytes()
        rgb = decode(data)
    except (OSError, ImageError) as error:
        reason = f"{error.strerror}." if isinstance(error, OSError) else str(error)
        return image.row, reason
    key = hashlib.sha256(data).hexdigest()
    return _Views(image, key, quality_view(rgb), semantic_view(rgb, side))


def _halved(embeddings: Embeddings, views: Sequence[_Views]) -> Mapping[str, NDArray[Any]]:
    """Embeddings as float16."""
    with np.errstate(over="ignore"):
        halved = {name: values.astype(np.float16) for name, values in embeddings.items()}
    for name, values in halved.items():
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            bad = int(np.argmin(finite))
            image, worst = views[bad].image, np.abs(embeddings[name][bad]).max()
            raise DataError(
                f"{image.path} (row {image.row}): the {name} embedding reaches {worst}, which the "
                f"store cannot hold (float16, up to {np.finfo(np.float16).max}). If mPLUG-Owl2 "
                "runs in float16, set features.dtype to bfloat16 or float32."
            )
    return halved
