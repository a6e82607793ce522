"""An image file: its format, its size, and its pixels."""

import io
import logging
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from ma_agiqa.errors import ConfigError, ImageTooLargeError, InvalidImageError
from ma_agiqa.images import netpbm
from ma_agiqa.images.essentials import jpeg_essentials, png_essentials
from ma_agiqa.images.limits import (
    MAX_IMAGE_BYTES,
    MAX_IMAGE_SIDE,
    GuardedFile,
    check_scans,
    check_tiff,
    damaged,
)

logger = logging.getLogger(__name__)

RGB = npt.NDArray[np.uint8]
"""Pixels: uint8 (height, width, 3)."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF", "TIFF", "AVIF")
"""Formats that are read; of animations and multi-page files only the first frame."""

UNBOUNDED_FORMATS = ("TIFF", "AVIF")
"""Formats whose header does not tell how long decoding takes."""

_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    **dict.fromkeys((b"II*\0", b"II\0*", b"II+\0", b"MM\0*", b"MM*\0", b"MM\0+"), "TIFF"),
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF"), "PPM"),
    # Not read, but named.
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"qoif": "QOI",
    b"\0\0\1\0": "ICO",
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML or SVG",
    b"<!DOCTYPE": "HTML",
    b"<html": "HTML",
    b"PK\3\4": "ZIP",
    b"\x1f\x8b": "gzip",
    b"version https://git-lfs": "Git LFS",
}
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_RLE = (1, 2)  # compressions of BMP
_LITTLE_COST = 2**24
"""Pixels times scans up to which a JPEG of more than four scans counts as ordinary."""

_CONVERTIBLE = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0


class Picture:
    """An image file whose header has been read.

    Attributes:
        format: one of `FORMATS`.
        width, height: size in pixels, before it is turned upright.
        bounded: whether decoding takes no longer than its pixels let expect.
    """

    def __init__(self, data: bytes):
        """Read the header; nothing is decoded.

        Raises:
            InvalidImageError: not an image in one of `FORMATS`, or with a damaged header, or made
                to keep a decoder busy (`images.limits`).
            ImageTooLargeError: more than `MAX_IMAGE_BYTES` bytes, or than `MAX_IMAGE_SIDE` pixels
                on a side.
        """
        self._data = data
        self.format = accepted_format(data)
        self._image: Image.Image | None = None
        self._netpbm: netpbm.Netpbm | None = None
        self.bounded = self.format not in UNBOUNDED_FORMATS
        scans = 0
        if self.format == "PPM":
            self._netpbm = netpbm.read_header(data)
            self.width, self.height = self._netpbm.width, self._netpbm.height
        else:
            if self.format == "PNG":
                data = png_essentials(data)
            elif self.format == "JPEG":
                data, scans = jpeg_essentials(data)
            self._image = _open(data, self.format)
            self.width, self.height = self._image.size
        if max(self.width, self.height) > MAX_IMAGE_SIDE:
            raise ImageTooLargeError(
                f"The image is {self.width}x{self.height} pixels; at most {MAX_IMAGE_SIDE} on "
                "a side are accepted. Scale it down."
            )
        check_scans(scans)
        info = self._image.info if self._image else {}
        self._rle = self.format == "BMP" and info.get("compression") in _RLE
        if self._rle or (scans > 4 and scans * self.pixels > _LITTLE_COST):
            self.bounded = False

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def work(self) -> int:
        """Number of pixels that decoding and the views go through: of a tall image, its square."""
        return max(self.width, self.height) * self.height

    def rgb(self) -> RGB:
        """Decode the pixels: uint8 (height, width, 3), RGB, upright; may be read-only.

        It can be called once.

        Raises:
            InvalidImageError: damaged, of pixels whose range is not known, or made to keep a
                decoder busy.
            ConfigError: this process has Pillow fill in what a file lacks.
        """
        if self._netpbm:
            return self._netpbm.rgb()
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise ConfigError(
                "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True in this process, with which half a "
                "file would be scored as a picture. Set it to False."
            )
        try:
            return self._decode()
        except (InvalidImageError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise errors of every kind on bad bytes
            raise damaged(self.format) from error

    def _decode(self) -> RGB:
        image, self._image = self._image, None
        if image is None:
            raise RuntimeError("The picture has been decoded before.")
        with image:
            if self._rle:
                bgr = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_COLOR)
                if bgr is not None:
                    return np.ascontiguousarray(bgr[..., ::-1])
            if self.format == "TIFF":
                check_tiff(image)
            image.load()
            return _to_rgb(_upright(image))


def accepted_format(data: bytes) -> str:
    """The format of a file by its first bytes.

    Raises:
        ImageTooLargeError: more than `MAX_IMAGE_BYTES` bytes.
        InvalidImageError: none of `FORMATS`; the error names the format if it is known.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageTooLargeError(
            f"The image has {len(data):,} bytes; at most {MAX_IMAGE_BYTES:,} are accepted. "
            "Save it smaller or compress it."
        )
    found = _known_format(data)
    if found in FORMATS:
        return found
    if not data:
        raise InvalidImageError("The image is empty (0 bytes). Send the bytes of an image file.")
    known = f" They are a file of the format {found}." if found else ""
    raise InvalidImageError(
        f"The {len(data):,} bytes are not an image that can be read.{known} "
        f"Send one of {', '.join(FORMATS)}."
    )


def _known_format(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        box = data[8 : max(12, min(int.from_bytes(data[:4], "big"), 256))]
        brands = [box[at : at + 4] for at in range(0, len(box), 4)]
        if any(brand in _AVIF_BRANDS for brand in brands):
            return "AVIF"
        return "HEIC" if any(brand in _HEIC_BRANDS for brand in brands) else "MP4 or its relatives"
    text = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip()
    start = text if text[:1] == b"<" else data
    return next((name for begin, name in _BEGINNINGS.items() if start.startswith(begin)), "")


def _open(data: bytes, name: str) -> Image.Image:
    """Read the header only."""
    try:
        # Pillow reads the pixels of a BMP in small parts; where that costs, a process is limited.
        file = io.BytesIO(data) if name == "BMP" else GuardedFile(data)
        return Image.open(file, formats=(name,))
    except (InvalidImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"The image's header announces far more than {MAX_IMAGE_SIDE} pixels on a side. "
            "Scale it down."
        ) from error
    except Exception as error:  # Pillow's header readers raise errors of every kind on bad bytes
        raise InvalidImageError(
            f"The header of the {name} image is damaged, or of a kind that is not read. "
            "Save it again as 8-bit RGB, in PNG or JPEG."
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged metadata says nothing about the pixels
        logger.debug("EXIF data that cannot be read", exc_info=True)
    return image


def _to_rgb(image: Image.Image) -> RGB:
    if image.mode.startswith("I;16"):
        return np.repeat(_high_byte(image)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        kind = "32-bit or signed integer" if image.mode == "I" else "floating-point"
        raise InvalidImageError(
            f"The image has {kind} pixels, whose range is not known. Save it as 8-bit RGB."
        )
    if image.mode not in _CONVERTIBLE:
        raise InvalidImageError(
            f"The image has colors of the kind {image.mode}, which is not read. Save it as RGB."
        )
    # np.array takes three times as long: 0.75 s at 8192x8192.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _high_byte(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The high byte of gray values of 16 bits, or of 12 bits in a TIFF.

    Raises:
        InvalidImageError: the high bytes of a picture that is not black are all 0.
    """
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    largest = int(values.max(initial=0))
    if 0 < largest < 2 ** (bits - 8):
        raise InvalidImageError(
            f"The image has gray values of {bits} bits, but none is above {largest}: it would "
            "be scored as black. Save it as 8-bit gray, or with values up to the largest."
        )
    gray = (values >> (bits - 8)).astype(np.uint8)
    return 255 - gray if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else gray
