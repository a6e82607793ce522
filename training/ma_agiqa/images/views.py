"""Encoded bytes to the two uint8 views the networks see.

Both views are made from the same decoded pixels. They stay uint8 until they are inside a model:
the float inputs of the official pipeline are recovered exactly from them, at a quarter of the
bytes. Nothing here imports torch.

Differs from the official code: the EXIF orientation is applied to both views; there only the
quality view follows it (OpenCV applies it, Pillow does not).
"""

import logging

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ma_agiqa.errors import ImageTooLargeError, InvalidImageError
from ma_agiqa.images.limits import GuardedFile, check_scans
from ma_agiqa.tensors import QUALITY_SIZE

logger = logging.getLogger(__name__)

RGB = npt.NDArray[np.uint8]
"""Pixels: uint8 (height, width, 3)."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF", "TIFF")
"""Formats that are read; of animations and multi-page files only the first frame."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Largest encoded image, in bytes: enough for 4096x4096 uncompressed pixels (48 MiB)."""

MAX_IMAGE_SIDE = 8192
"""Largest width and height in pixels; a padded square then takes at most 201 MB."""

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

    Args:
        data: the file's bytes, in one of `FORMATS`.

    Returns:
        uint8 (height, width, 3), RGB, upright.

    Raises:
        InvalidImageError: not an image in one of `FORMATS`, damaged, or made to keep the decoder
            busy (`images.limits`).
        ImageTooLargeError: more than `MAX_IMAGE_BYTES` bytes, or than `MAX_IMAGE_SIDE` pixels on
            a side.
    """
    if not data:
        raise InvalidImageError("The image is empty (0 bytes). Send the bytes of an image file.")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageTooLargeError(
            f"The image has {len(data):,} bytes; at most {MAX_IMAGE_BYTES:,} are accepted. "
            "Save it smaller or compress it."
        )
    with _open(data) as image:
        if max(image.size) > MAX_IMAGE_SIDE:
            raise ImageTooLargeError(
                f"The image is {image.width}x{image.height} pixels; at most {MAX_IMAGE_SIDE} on "
                "a side are accepted. Scale it down."
            )
        try:
            return _upright_rgb(image)
        except InvalidImageError:
            raise
        except Exception as error:  # Pillow's decoders raise errors of every kind on bad bytes
            raise InvalidImageError(
                f"The {image.format} image is damaged or incomplete and cannot be decoded. "
                "Write or transfer the file again."
            ) from error


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


def _open(data: bytes) -> Image.Image:
    """Read the header only."""
    try:
        file = GuardedFile(data)
        image = Image.open(file, formats=FORMATS)
        file.header_is_read()
        check_scans(image, data)
        return image
    except InvalidImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"The image's header announces far more than {MAX_IMAGE_SIDE} pixels on a side. "
            "Scale it down."
        ) from error
    except Exception as error:  # Pillow's header readers raise errors of every kind on bad bytes
        raise InvalidImageError(
            f"The {len(data):,} bytes are not an image that can be read. "
            f"Send one of {', '.join(FORMATS)}."
        ) from error


def _upright_rgb(image: Image.Image) -> RGB:
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged metadata says nothing about the pixels
        logger.debug("EXIF data that cannot be read", exc_info=True)
    if image.mode.startswith("I"):  # 16-bit gray, or 32-bit integers holding 16-bit values
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise InvalidImageError(
            "The image has floating-point pixels, whose range is not known. Save it as 8-bit RGB."
        )
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
