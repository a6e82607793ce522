"""Pictures made by rule, and image files of them."""

import io

import numpy as np
from PIL import Image


def picture(seed: int, height: int | None = None, width: int | None = None) -> np.ndarray:
    """A gradient under noise, uint8 (height, width, 3).

    Args:
        seed: of everything that varies: colors, the strength of the noise, sizes not given.
        height: by default one of 32 to 300.
        width: likewise.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(32, 300, 2)
    height, width = height or drawn[0], width or drawn[1]
    ramp = np.linspace(0, 200, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    noise = rng.normal(0, rng.uniform(0, 80), (height, width, 3))
    return (ramp + noise + rng.uniform(0, 55, 3)).clip(0, 255).astype(np.uint8)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Uniform noise, uint8 (height, width, 3), which no format makes small."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: np.ndarray | Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """An image file, with options of Pillow's `save`."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decoded_ppm(data: bytes) -> np.ndarray:
    """The pixels of a PPM or PGM file, uint8 (height, width, 3) or (height, width)."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PPM"
        return np.asarray(image)
