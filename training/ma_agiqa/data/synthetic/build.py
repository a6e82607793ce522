"""Put the synthetic set together: `images/`, `data.csv` and `recipe.json`."""

import csv
import json
import logging
import multiprocessing
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ma_agiqa.data.settings import Recipe
from ma_agiqa.data.synthetic.degradations import DEGRADATIONS, LEVELS, degrade
from ma_agiqa.data.synthetic.opinion import rate
from ma_agiqa.data.synthetic.scenes import SCENE_KINDS, draw_scene
from ma_agiqa.data.synthetic.sources import (
    PATTERN_KINDS,
    PHOTOGRAPHS,
    TEXTURES,
    crop,
    draw_pattern,
    load,
    tinted,
)
from ma_agiqa.errors import DataError
from ma_agiqa.files import replace_folder

COLUMNS = ("image", "mos", "source", "degradation", "level")

_SIZES = ((320, 320), (384, 256), (256, 384), (288, 352), (352, 264), (448, 336), (256, 256))

_logger = logging.getLogger(__name__)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """One undamaged picture of the set: a crop, a scene or a pattern.

    Attributes:
        source: what it was made from; the unit of the split.
        number: tells views of one source apart.
        content: key of `opinion.CONTENT`.
    """

    source: str
    number: int
    content: str


def views(recipe: Recipe) -> Iterator[View]:
    """Every view of the set, in a fixed order."""
    for source in PHOTOGRAPHS:
        for number in range(recipe.crops_per_photograph):
            yield View(source, number, "photograph")
    for kind in SCENE_KINDS:
        for index in range(recipe.scenes_per_kind):
            yield View(f"scene_{kind}_{index:02d}", 0, "scene")
    for source in TEXTURES:
        for number in range(recipe.crops_per_texture):
            yield View(source, number, "texture")
    for kind in PATTERN_KINDS:
        for index in range(recipe.patterns_per_kind):
            yield View(f"pattern_{kind}_{index:02d}", 0, kind)


def draw_view(view: View, seed: int) -> Picture:
    """Make the undamaged picture of a view, RGB uint8 (H, W, 3); the same for the same seed."""
    rng = _generator(seed, view, "picture")
    width, height = _SIZES[rng.integers(len(_SIZES))]
    kind = view.source.partition("_")[2].rpartition("_")[0]
    if view.content == "scene":
        return draw_scene(kind, rng, width, height)
    if view.source in PHOTOGRAPHS:
        return crop(load(view.source), rng, width, height)
    if view.source in TEXTURES:
        return tinted(crop(load(view.source), rng, width, height), rng)
    return draw_pattern(kind, rng, width, height)


def build(folder: str | os.PathLike[str], recipe: Recipe | None = None, workers: int = 2) -> Path:
    """Write the set to a new folder; nothing half-written is ever found under its name.

    Args:
        folder: must not exist yet.
        recipe: what to make; by default the set of the demo model.
        workers: processes; the result does not depend on it.

    Returns:
        Path of the `data.csv`.

    Raises:
        DataError: the folder exists already.
    """
    folder, recipe = Path(folder), recipe or Recipe()
    if folder.exists():
        raise DataError(f"{folder} exists already; name a new folder or remove this one first.")
    spawn = multiprocessing.get_context("spawn")  # a fork can inherit locks of OpenCV and torch
    with (
        replace_folder(folder) as part,
        ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (1,)) as pool,
    ):
        (part / "images").mkdir()
        jobs = [(view, recipe, part / "images") for view in views(recipe)]
        rows = [row for batch in pool.map(_write_view, *zip(*jobs, strict=True)) for row in batch]
        with open(part / "data.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        (part / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    _logger.info("Wrote %d images and data.csv to %s.", len(rows), folder)
    return folder / "data.csv"


def ensure(folder: str | os.PathLike[str], recipe: Recipe) -> Path:
    """Find the `data.csv` of the set in a folder, which is made if it does not exist.

    Raises:
        DataError: the folder holds something else, or a set made with another recipe.
    """
    folder = Path(folder)
    if not folder.exists():
        return build(folder, recipe)
    try:
        found = json.loads((folder / "recipe.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not a synthetic set (recipe.json: {error}).") from error
    if found != asdict(recipe):
        raise DataError(
            f"{folder} was made with the recipe {found}, expected {asdict(recipe)}; "
            "remove it, and it will be made again."
        )
    return folder / "data.csv"


def _generator(seed: int, view: View, purpose: str) -> np.random.Generator:
    key = f"{view.source}/{view.number}/{purpose}".encode()
    return np.random.default_rng([seed, zlib.crc32(key)])


def _plan(view: View, recipe: Recipe, rng: np.random.Generator) -> list[list[tuple[str, int]]]:
    """Which degradations each version of a view gets; the first is the undamaged view."""
    if view.content not in ("photograph", "scene"):
        names = rng.permutation(["blur", "jpeg", "noise"])[:1]  # keeps the poor class small
        return [[], [(str(names[0]), int(rng.choice(LEVELS)))]]
    chosen = rng.permutation(list(DEGRADATIONS))[: recipe.degraded_per_view]
    return [[], *([(str(name), int(rng.choice(LEVELS)))] for name in chosen)]


def _write_view(view: View, recipe: Recipe, folder: Path) -> list[tuple[str, float, str, str, str]]:
    pristine = draw_view(view, recipe.seed)
    rng = _generator(recipe.seed, view, "degradations")
    rows = []
    for plan in _plan(view, recipe, rng):
        picture = pristine
        for name, level in plan:
            picture = degrade(picture, name, level, rng)
        names = "+".join(name for name, _ in plan) or "none"
        levels = "+".join(str(level) for _, level in plan) or "0"
        stem = f"{view.source}_{view.number:02d}_{names}_{levels}"
        file = _save(picture, folder / stem, rng)
        rows.append((file, rate(view.content, plan, rng), view.source, names, levels))
    return rows


def _save(picture: Picture, stem: Path, rng: np.random.Generator) -> str:
    """Write a PNG (one in eight) or a JPEG of high quality; returns the file's name."""
    if rng.random() < 0.125:
        name = f"{stem.name}.png"
        Image.fromarray(picture).save(stem.parent / name, compress_level=3)
    else:
        name = f"{stem.name}.jpg"
        quality = int(rng.integers(88, 97))
        Image.fromarray(picture).save(stem.parent / name, quality=quality, subsampling=0)
    return name
