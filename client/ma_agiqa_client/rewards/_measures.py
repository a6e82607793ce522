"""Rewards that need no weights: what can be computed from the pixels of one picture."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_JPEG_QUALITY = 95


def compressibility(picture: Image.Image) -> float:
    """Return minus the size as JPEG of quality 95, in kB, as in ddpo-pytorch. At most 0."""
    return -incompressibility(picture)


def incompressibility(picture: Image.Image) -> float:
    """Return the size as JPEG of quality 95, in kB (1000 bytes), as in ddpo-pytorch."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.tell() / 1000


def sharpness(picture: Image.Image) -> float:
    """Return the standard deviation of the Laplacian of the luma in 0-1. Noise counts, too."""
    luma = np.asarray(picture.convert("L"), np.float32) / 255
    if min(luma.shape) < 3:
        return 0.0
    middle = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((around - 4 * middle).std())


def colorfulness(picture: Image.Image) -> float:
    """Return the colorfulness M3 of Hasler and Süsstrunk (2003), for 8-bit RGB; 0 if gray."""
    red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB"), np.float32), 2, 0)
    first, second = red - green, (red + green) / 2 - blue
    return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean()))


def resolution(picture: Image.Image) -> float:
    """Return the number of pixels in millions."""
    return picture.width * picture.height / 1e6


def thumbnail(picture: Image.Image, side: int) -> npt.NDArray[np.float32]:
    """Return the picture as RGB, float32 (side, side, 3) in 0-1; aspect is ignored."""
    small = picture.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


MEASURES = {
    measure.__name__: measure
    for measure in (compressibility, incompressibility, sharpness, colorfulness, resolution)
}
"""The measures by name. Each takes a Pillow image of mode RGB."""
