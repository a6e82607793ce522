"""Put a set of damaged photographs together: `images/` and `data.csv`."""

import csv
import logging
import multiprocessing
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ma_agiqa.data.degraded.degradations import DEGRADATIONS, Picture, degrade
from ma_agiqa.data.degraded.opinion import CONTENT, pseudo_mos
from ma_agiqa.data.degraded.pictures import PATTERNS, crop, pattern
from ma_agiqa.errors import DataError, ImageError
from ma_agiqa.files import replace_folder
from ma_agiqa.images.views import decode

COLUMNS = ("image", "mos", "source", "picture", "degradations", "strengths")

_STRENGTHS = ((0.02, 0.3), (0.3, 0.65), (0.65, 1.0))  # one of each range, of each degradation
_IN_A_PAIR = (0.05, 0.8)
_OF_A_PHOTOGRAPH = (8, 6)  # degradations of a crop, and pairs of them
_OF_NO_CONTENT = (2, 0)  # keeps the poor class small

_logger = logging.getLogger(__name__)

Damage = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Source:
    """What undamaged pictures are made from.

    Attributes:
        name: the unit of the split.
        content: a key of `opinion.CONTENT`.
        file: photograph; None for a pattern, which is drawn.
    """

    name: str
    content: str
    file: Path | None = None


def read_sources(table: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Source]:
    """Read a list of photographs.

    Args:
        table: CSV file with the columns file and content, "photograph" or "texture".
        folder: what the files are relative to.

    Raises:
        DataError: the table cannot be read, or a photograph is missing or listed twice.
    """
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = [(Path(folder) / row["file"], row["content"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{table}: needs the columns file and content ({error!r}).") from error
    for path, content in rows:
        if content not in ("photograph", "texture"):
            raise DataError(f"{table}: {path} is {content!r}; write photograph or texture.")
        if not path.is_file():
            raise DataError(f"{path} is missing; {table} lists it.")
    if repeated := [path for path, count in Counter(path for path, _ in rows).items() if count > 1]:
        raise DataError(f"{table}: {repeated[0]} is listed more than once.")
    sources = [Source(path.stem, content, path) for path, content in rows]
    if len({source.name for source in sources}) < len(sources):
        sources = [
            Source(f"{index:03d}_{one.name}", one.content, one.file)
            for index, one in enumerate(sources)
        ]
    return sources


def build(
    folder: str | os.PathLike[str],
    photographs: Sequence[Source],
    crops: int = 4,
    patterns: int = 12,
    seed: int = 20,
    workers: int = 2,
) -> Path:
    """Write the set to a new folder; nothing half-written is ever found under its name.

    Args:
        folder: must not exist yet.
        photographs: see `read_sources`.
        crops: undamaged pictures of each photograph.
        patterns: undamaged pictures of each kind of pattern; each is a source.
        seed: decides every picture, with its source's name.
        workers: processes; the result does not depend on it.

    Returns:
        Path of the `data.csv`.

    Raises:
        DataError: the folder exists, there is nothing to make, or a photograph cannot be read.
    """
    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists already; name a new folder or remove this one first.")
    drawn = [Source(f"{kind}_{i:02d}", kind) for kind in PATTERNS for i in range(patterns)]
    jobs = [(source, crops if source.file else 1) for source in (*photographs, *drawn)]
    if not jobs:
        raise DataError("There is neither a photograph nor a pattern to make a set from.")
    spawn = multiprocessing.get_context("spawn")  # a fork can inherit locks of OpenCV and torch
    with (
        replace_folder(folder) as part,
        ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (1,)) as pool,
    ):
        (part / "images").mkdir()
        arguments = zip(*((*job, seed, part / "images") for job in jobs), strict=True)
        rows = [row for batch in pool.map(_write, *arguments) for row in batch]
        with open(part / "data.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    _logger.info("Wrote %d images and data.csv to %s.", len(rows), folder)
    return folder / "data.csv"


def _write(source: Source, crops: int, seed: int, folder: Path) -> list[tuple[str, ...]]:
    """Write all versions of all pictures of a source; returns their rows."""
    rows: list[tuple[str, ...]] = []
    photograph = _read(source.file) if source.file else None
    for number in range(crops):
        unit = f"{source.name}_{number}"
        rng = np.random.default_rng([seed, zlib.crc32(f"{source.name}/{number}".encode())])
        picture = pattern(source.content, rng) if photograph is None else crop(photograph, rng)
        for index, (version, damage) in enumerate(_versions(picture, source.content, rng)):
            name = _save(version, folder / f"{unit}_{index:02d}", rng)
            names = "+".join(name for name, _ in damage) or "none"
            strengths = "+".join(f"{strength:.3f}" for _, strength in damage) or "0"
            mos = pseudo_mos(source.content, damage)
            rows.append((name, f"{mos:.4f}", source.name, unit, names, strengths))
    return rows


def _read(path: Path) -> Picture:
    try:
        return decode(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _versions(
    picture: Picture, content: str, rng: np.random.Generator
) -> Iterator[tuple[Picture, Damage]]:
    """The picture itself, single degradations at three strengths each, and pairs of them."""
    names = list(DEGRADATIONS)
    kinds, pairs = _OF_NO_CONTENT if CONTENT[content] < 1 else _OF_A_PHOTOGRAPH
    yield picture, ()
    for name in rng.permutation(names)[:kinds]:
        seeds = rng.integers(2**31, size=2)  # two in three strengths damage the same places
        for index, (low, high) in enumerate(_STRENGTHS):
            strength = rng.uniform(low, high)
            own = np.random.default_rng(seeds[index == 1])
            yield degrade(picture, name, strength, own), [(name, strength)]
    for _ in range(pairs):
        first, second = rng.permutation(names)[:2]
        strengths = rng.uniform(*_IN_A_PAIR, 2)
        once = degrade(picture, first, strengths[0], rng)
        twice = degrade(once, second, strengths[1], rng)
        yield twice, list(zip((first, second), strengths.tolist(), strict=True))


def _save(picture: Picture, stem: Path, rng: np.random.Generator) -> str:
    """Write the file as JPEG or, one in four, WebP, of high quality; returns its name."""
    image, quality = Image.fromarray(picture), int(rng.integers(86, 99))
    if rng.random() < 0.25:
        image.save(path := Path(f"{stem}.webp"), quality=quality, method=1)
    else:
        subsampling = int(rng.choice([0, 2]))
        image.save(path := Path(f"{stem}.jpg"), quality=quality, subsampling=subsampling)
    return path.name
