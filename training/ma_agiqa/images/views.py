"""Encoded bytes to the two uint8 views the networks see.

Both views are made from the same decoded pixels. They stay uint8 until they are inside a model:
the float inputs of the official pipeline are recovered exactly from them, at a quarter of the
bytes. Nothing here imports torch.

Differs from the official code: the EXIF orientation is applied to both views; there only the
quality view follows it (OpenCV applies it, Pillow does not).
"""

import cv2
import numpy as np
from PIL import Image

from ma_agiqa.images.picture import RGB, Picture
from ma_agiqa.tensors import QUALITY_SIZE

PADDING_RGB = (122, 116, 104)
"""CLIP's mean color in 0-255, which pads the semantic view to a square."""

PREPROCESSING = {
    "pixels": "8-bit RGB, alpha dropped, EXIF orientation applied",
    "quality_view": f"{QUALITY_SIZE}x{QUALITY_SIZE}, OpenCV bicubic, aspect ratio ignored",
    "semantic_view": f"padded to a square with RGB {PADDING_RGB}, Pillow bicubic",
}
"""Both views in words. Features are stored with this; change it when the pixels change."""


def decode(data: bytes) -> RGB:
    """Decode an image file.

    Gray, palette, 16-bit and CMYK images become 8-bit RGB; alpha is dropped without blending, as
    in the official pipeline; 16-bit values keep their high byte. Size limits are checked on the
    header, before pixels are decoded.

    Where files come from strangers, use `images.preparation`, which also limits time and memory.

    Args:
        data: the file's bytes, in one of `images.picture.FORMATS`.

    Returns:
        uint8 (height, width, 3), RGB, upright.

    Raises:
        InvalidImageError: not an image in one of these formats, damaged, or made to keep the
            decoder busy (`images.limits`).
        ImageTooLargeError: more bytes, or more pixels on a side, than `images.limits` allows.
    """
    rgb = Picture(data).rgb()
    return rgb if rgb.flags.writeable else rgb.copy()


def quality_view(rgb: RGB) -> RGB:
    """MANIQA's view (paper §3.1): OpenCV bicubic, no antialiasing, aspect ratio ignored.

    Args:
        rgb: uint8 (height, width, 3).

    Returns:
        uint8 (224, 224, 3), RGB.
    """
    return cv2.resize(rgb, (QUALITY_SIZE, QUALITY_SIZE), interpolation=cv2.INTER_CUBIC)


def semantic_view(rgb: RGB, size: int = 448) -> RGB:
    """mPLUG-Owl2's view (paper §3.2): padded to a square, then Pillow bicubic.

    Args:
        rgb: uint8 (height, width, 3).
        size: side of the view in pixels (paper: 448).

    Returns:
        uint8 (size, size, 3), RGB.
    """
    height, width = rgb.shape[:2]
    side = max(height, width)
    image = Image.fromarray(rgb)
    if width > height:
        # Pillow resizes the width first, and padding stays itself: pad the narrow image instead.
        image = image.resize((size, height), Image.Resampling.BICUBIC)
    if width != height:
        square = Image.new("RGB", (image.width if width > height else side, side), PADDING_RGB)
        square.paste(image, ((square.width - image.width) // 2, (side - height) // 2))
        image = square
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC))
