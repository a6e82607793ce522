"""Fill a store: decode images, embed them, write rows; by one process or several.

Rows are divided into blocks of one batch each. An image is always computed at the same place of a
batch of the same size, whatever was done before: a store that was made in several runs is equal to
one made in one go.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ma_agiqa.data import RatedImage
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.data.features.embedders import Embedder, Embeddings
from ma_agiqa.data.features.identity import differences, store_identity
from ma_agiqa.data.features.source_files import FILE_RECORD, SourceViews, changed_files, read_views
from ma_agiqa.data.features.store import FeatureStore, FeatureWriter
from ma_agiqa.torchrun import Processes, joined_processes

__all__ = ["Extraction", "extract"]

_BLOCKS_AHEAD = 2  # that are decoded while others are embedded
_LISTED = 20  # bad images that a message lists


@dataclass(frozen=True)
class Extraction:
    """What was done.

    Attributes:
        images: in all.
        made: images whose features were made now, by all processes.
        seconds: that took, the embedder's loading not counted.
    """

    images: int
    made: int
    seconds: float


@dataclass(frozen=True)
class _Block:
    """One batch: the rows to be made among those that share it.

    Attributes:
        places: of the rows in the batch.
        rows: of the store.
        size: of the batch.
    """

    places: tuple[int, ...]
    rows: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class _Decoded:
    """A block whose images are decoded, without those that are bad.

    Attributes:
        errors: of the bad ones: row of the table, sentence.
    """

    block: _Block
    sources: tuple[SourceViews, ...]
    errors: tuple[tuple[int, str], ...]


def extract(
    folder: Path,
    images: Sequence[RatedImage],
    wanted: Mapping[str, Any],
    load: Callable[[Processes], Embedder],
    batch_size: int = 32,
    workers: int = 4,
    overwrite: bool = False,
    progress: bool = False,
) -> Extraction:
    """Make the features of images that a store does not hold yet; makes the store if needed.

    Under torchrun every process takes its share of the batches; all return when all are done.
    Stopped at any moment, the next call goes on; only batches under way are lost.

    Args:
        folder: of the store.
        images: with names of their own.
        wanted: what is known of the store's identity, see `identity.wanted_identity`.
        load: gives the embedder; called only if there is something to do.
        batch_size: images per call of the embedder.
        workers: threads that decode images.
        overwrite: make everything anew, in the place of the store that is there.
        progress: show a bar on stderr, in the main process.

    Raises:
        DataError: a store of other features or images; no room on the disk; images that cannot be
            read, when all others are done; an embedding that is not finite in float16.
        ConfigError: another embedder than `wanted`, or processes on several machines.
    """
    with joined_processes() as processes:
        count = processes.on_main(lambda: _plan(folder, images, wanted, workers, overwrite))
        if count == 0:
            return Extraction(len(images), 0, 0.0)
        processes.require_one_machine()
        embedder = load(processes)
        try:
            processes.on_main(lambda: _prepare(folder, images, wanted, embedder, overwrite))
            start = time.perf_counter()
            job = _Job(FeatureStore(folder), images, embedder, batch_size)
            pending = processes.on_main(job.pending)
            share = job.blocks(pending)[processes.index :: processes.count]
            errors = job.run(share, workers, progress and processes.index == 0)
        finally:
            embedder.close()
        errors = sorted(processes.gather(errors))
        processes.on_main(lambda: _report(errors, len(images)))
        return Extraction(len(images), len(pending), time.perf_counter() - start)


def _plan(
    folder: Path,
    images: Sequence[RatedImage],
    wanted: Mapping[str, Any],
    workers: int,
    overwrite: bool,
) -> int:
    """Check what is there, take back rows of changed files, count the rows to be made."""
    if overwrite or not FeatureStore.exists(folder):
        return len(images)
    store = FeatureStore(folder)
    store.check_identity(wanted)
    rows = store.rows_of(images)
    done = store.done()[rows]
    rows, finished = rows[done], [image for image, d in zip(images, done, strict=True) if d]
    before = store.files()[rows]
    changed, files = changed_files(finished, before, workers)
    touched = ~changed & (files["mtime_ns"] != before["mtime_ns"])
    if changed.any() or touched.any():
        with store.writing() as writer:
            writer.forget(rows[changed])
            writer.touch(rows[touched], files[touched])
    return int(len(images) - len(rows) + changed.sum())


def _prepare(
    folder: Path,
    images: Sequence[RatedImage],
    wanted: Mapping[str, Any],
    embedder: Embedder,
    overwrite: bool,
) -> None:
    """Make the store if needed; in any case the embedder must fit it and the settings."""
    identity = store_identity(embedder.identity())
    if found := differences(identity, wanted):
        raise ConfigError(
            f"The embedder is another one than the settings name: {'; '.join(found)}. Change "
            "`embedder` and `features.dtype`, or use another embedder."
        )
    if overwrite or not FeatureStore.exists(folder):
        FeatureStore.create(folder, [image.name for image in images], identity)
    else:
        FeatureStore(folder).check_identity(identity)


class _Job:
    """The work on one store with one embedder."""

    def __init__(
        self, store: FeatureStore, images: Sequence[RatedImage], embedder: Embedder, batch_size: int
    ) -> None:
        self._store, self._embedder = store, embedder
        self._rows = store.rows_of(images)
        self._images = dict(zip(self._rows.tolist(), images, strict=True))
        self._size = min(batch_size, embedder.max_batch_size or batch_size)

    def pending(self) -> list[int]:
        """Rows that are not complete, in order."""
        return sorted(self._rows[~self._store.done()[self._rows]].tolist())

    def blocks(self, pending: Iterable[int]) -> list[_Block]:
        """Batches of these rows."""
        found = []
        for number, group in groupby(pending, key=lambda row: row // self._size):
            start, rows = number * self._size, tuple(group)
            size = min(self._size, len(self._store.names) - start)
            found.append(_Block(tuple(row - start for row in rows), rows, size))
        return found

    def run(self, blocks: Sequence[_Block], workers: int, progress: bool) -> list[tuple[int, str]]:
        """Make these rows; returns the errors of the images that could not be read."""
        errors: list[tuple[int, str]] = []
        flying: deque[tuple[_Decoded, Future[Embeddings]]] = deque()
        total = sum(len(block.rows) for block in blocks)
        bar = tqdm(total=total, desc="features", unit="image", disable=not progress)
        with bar, ThreadPoolExecutor(workers) as pool, self._store.writing() as writer:
            for decoded in self._decode_ahead(pool, blocks):
                errors += decoded.errors
                bar.update(len(decoded.errors))
                if decoded.sources:
                    flying.append((decoded, self._embedder.submit(self._views(decoded))))
                while len(flying) >= self._embedder.in_flight:
                    bar.update(self._write(writer, *flying.popleft()))
            while flying:
                bar.update(self._write(writer, *flying.popleft()))
        return errors

    def _decode_ahead(
        self, pool: ThreadPoolExecutor, blocks: Sequence[_Block]
    ) -> Iterator[_Decoded]:
        read = partial(read_views, semantic_size=self._embedder.image_size)
        ahead: deque[tuple[_Block, list[Future[SourceViews]]]] = deque()
        for block in blocks:
            ahead.append((block, [pool.submit(read, self._images[row]) for row in block.rows]))
            if len(ahead) > _BLOCKS_AHEAD:
                yield self._collect(*ahead.popleft())
        while ahead:
            yield self._collect(*ahead.popleft())

    def _collect(self, block: _Block, futures: Sequence[Future[SourceViews]]) -> _Decoded:
        places, rows, sources, errors = [], [], [], []
        for place, row, future in zip(block.places, block.rows, futures, strict=True):
            try:
                sources.append(future.result())
            except DataError as error:
                errors.append((self._images[row].row, str(error)))
            else:
                places.append(place)
                rows.append(row)
        good = _Block(tuple(places), tuple(rows), block.size)
        return _Decoded(good, tuple(sources), tuple(errors))

    def _views(self, decoded: _Decoded) -> NDArray[np.uint8]:
        """The batch (B, S, S, 3); places of rows that are not to be made are black."""
        side = self._embedder.image_size
        views = np.zeros((decoded.block.size, side, side, 3), np.uint8)
        for place, source in zip(decoded.block.places, decoded.sources, strict=True):
            views[place] = source.semantic
        return views

    def _write(self, writer: FeatureWriter, decoded: _Decoded, future: "Future[Embeddings]") -> int:
        """Write the rows of a batch; returns how many."""
        embeddings, block = future.result(), decoded.block
        values = {
            "quality_view": np.stack([source.quality for source in decoded.sources]),
            "files": np.array([source.file for source in decoded.sources], FILE_RECORD),
        }
        for name in ("semantic", "coherence"):
            values[name] = self._halved(name, embeddings[name][list(block.places)], block.rows)
        writer.write(block.rows, values)
        return len(block.rows)

    def _halved(
        self, name: str, values: NDArray[np.float32], rows: Sequence[int]
    ) -> NDArray[np.float16]:
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        finite = np.isfinite(halved).all(axis=1)
        if not finite.all():
            bad = int(np.argmin(finite))
            image, worst = self._images[rows[bad]], np.abs(values[bad]).max()
            raise DataError(
                f"{image.path} (row {image.row}): the {name} embedding reaches {worst}, which the "
                f"store cannot hold (float16, up to {np.finfo(np.float16).max}). Where mPLUG-Owl2 "
                "runs in float16, set features.dtype to bfloat16 or float32."
            )
        return halved


def _report(errors: Sequence[tuple[int, str]], images: int) -> None:
    if not errors:
        return
    lines = [f"  {sentence}" for _, sentence in errors[:_LISTED]]
    if len(errors) > _LISTED:
        lines.append(f"  ... and {len(errors) - _LISTED:,} more")
    raise DataError(
        f"{len(errors):,} of {images:,} images cannot be read; the features of the others are "
        "kept. Mend these and run the same command again:\n" + "\n".join(lines)
    )
