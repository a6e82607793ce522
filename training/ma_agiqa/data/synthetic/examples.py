"""The images in `examples/`: pictures, damaged versions of each, and two that show nothing.

    python -m ma_agiqa synthetic --examples --output examples

writes them. Their sources are in the test part of the demo model's split, so it was not trained
on them.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ma_agiqa.data.settings import Recipe
from ma_agiqa.data.synthetic.build import View, draw_view
from ma_agiqa.data.synthetic.degradations import degrade
from ma_agiqa.data.synthetic.sources import load

_JPEG_QUALITY = 90
_PHOTOGRAPH_SIZE = (384, 256)

EXAMPLES: Mapping[str, tuple[str, Mapping[str, Sequence[tuple[str, int]]]]] = MappingProxyType(
    {
        "coffee": (
            "photograph_coffee",
            {
                "blur": [("blur", 3)],
                "holes": [("holes", 3)],
                "noise": [("noise", 3)],
                "shuffled": [("shuffle", 4)],
            },
        ),
        "village": (
            "scene_village_06",
            {"jpeg": [("jpeg", 4)], "swapped": [("swap", 4)], "blur": [("blur", 4)]},
        ),
        "portrait": (
            "scene_portrait_02",
            {"oversmoothed": [("oversmooth", 4)], "noise": [("noise", 4)]},
        ),
    }
)
"""Name -> (source, {what was done: (degradation, level) ...})."""

NO_CONTENT: Mapping[str, View] = MappingProxyType(
    {
        "bricks_no_content": View("texture_brick", 0, "texture"),
        "dots_no_content": View("pattern_dots_05", 0, "dots"),
    }
)
"""Name -> sharp pictures that show nothing."""


def write_examples(folder: str | os.PathLike[str], recipe: Recipe) -> Path:
    """Write `NAME_pristine.jpg` and `NAME_DAMAGE.jpg` of EXAMPLES, and `NAME.jpg` of NO_CONTENT.

    Args:
        folder: is made if it does not exist.
        recipe: recipe of the set; its seed decides the scenes and the damage.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (source, versions) in EXAMPLES.items():
        pristine = _pristine(source, recipe.seed)
        _save(pristine, folder / f"{name}_pristine.jpg")
        for damage, plan in versions.items():
            rng = np.random.default_rng(recipe.seed)
            picture = pristine
            for degradation, level in plan:
                picture = degrade(picture, degradation, level, rng)
            _save(picture, folder / f"{name}_{damage}.jpg")
    for name, view in NO_CONTENT.items():
        _save(draw_view(view, recipe.seed), folder / f"{name}.jpg")
    return folder


def _pristine(source: str, seed: int) -> NDArray[np.uint8]:
    if source.startswith("photograph"):
        return cv2.resize(load(source), _PHOTOGRAPH_SIZE, interpolation=cv2.INTER_AREA)
    return draw_view(View(source, 0, "scene"), seed)


def _save(picture: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(picture).save(path, quality=_JPEG_QUALITY, optimize=True)
