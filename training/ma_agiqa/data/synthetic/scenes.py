"""Procedural scenes: pictures that plainly show something, drawn from a seed."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data.synthetic import indoor, outdoor
from ma_agiqa.data.synthetic.canvas import Canvas
from ma_agiqa.errors import ConfigError

SCENE_KINDS: Mapping[str, Callable[[Canvas], None]] = MappingProxyType(
    {
        "landscape": outdoor.landscape,
        "seascape": outdoor.seascape,
        "village": outdoor.village,
        "skyline": outdoor.skyline,
        "street": outdoor.street,
        "flowers": outdoor.flowers,
        "still_life": indoor.still_life,
        "interior": indoor.interior,
        "portrait": indoor.portrait,
        "cat": indoor.cat,
    }
)
"""Name of a kind of scene -> the function that paints it."""


def draw_scene(kind: str, rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Draw one scene.

    Args:
        kind: a key of SCENE_KINDS.
        rng: decides composition, palette, light and texture.
        width, height: size in pixels.

    Returns:
        RGB uint8 (height, width, 3).

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in SCENE_KINDS:
        raise ConfigError(f"Unknown scene {kind!r}; choose one of {', '.join(SCENE_KINDS)}.")
    canvas = Canvas(rng, width, height)
    SCENE_KINDS[kind](canvas)
    return canvas.finish()
