"""Limits on image files, so that what a file costs follows from the pixels that it declares.

A few bytes can demand much work in other ways than by width and height. Measured with Pillow 13 on
2 shared cores, without these limits:

    file                                                             bytes   CPU seconds
    text PPM of comments (quadratic)                                 8 MiB   more than 40
    JPEG of a hundred thousand empty scans                           8 MiB   more than 40
    TIFF whose 8192 strips share one progressive JPEG of 97 scans    67 KB   17
    TIFF of 8x8 pixels with a resolution of 8 million numbers        62 MiB  14
    BMP of 8192x8192 run-length encoded pixels, by Pillow            33 KB   6
    TIFF of 16x16 pixels in a tile of 2 GB (and 2 GB of memory)      2 MB    5

Three things hold them: only the parts of a file that hold pixels reach a decoder
(`images.essentials`), structures that no encoder writes are refused by their header, and formats
whose cost no header tells are decoded in a process that is ended when its CPU time or memory
exceeds what pictures of that size take (`images.isolated`).
"""

import io
from collections.abc import Sequence

from PIL import Image

from ma_agiqa.errors import InvalidImageError

MAX_IMAGE_BYTES = 64 * 2**20
"""Largest encoded image, in bytes: enough for 4096x4096 uncompressed pixels (48 MiB)."""

MAX_IMAGE_SIDE = 8192
"""Largest width and height in pixels; a padded square then takes at most 201 MB."""

MAX_PIXELS = MAX_IMAGE_SIDE**2

MAX_REQUEST_PIXELS = 8 * MAX_PIXELS
"""Most pixels of all images in a request: 8 of the largest side, or 32 images of 4096x4096."""

MAX_READS = 250_000
"""How often a parser may read a file, 1 us each."""

MAX_PARTS = 250_000
"""Chunks of a PNG, 1 us each: one of 64 MiB in chunks of 8 KiB has 8,200."""

MAX_SEGMENTS = 10_000
"""Segments of a JPEG, scans among them: 64 MiB of metadata in full segments are 1,024."""

MAX_HEADER_BYTES = 2**20
"""Bytes of a JPEG's tables and of its EXIF data; encoders write less than 130 KB."""

MAX_SCANS = 32
"""Scans of a progressive JPEG, 0.06 s each at 8192x8192 pixels: encoders write about 10."""

_MAX_TILE_SIDE = 1024  # of a TIFF smaller than that: some writers use one size of tiles for all
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_BLOCKS = {273: 279, 324: 325}  # tags of a TIFF: offsets of strips and tiles, and their sizes


def cpu_budget_s(pixels: int) -> float:
    """CPU seconds that decoding an image and making its views may take: 0.5 to 2.9."""
    return 0.5 + 2.4 * pixels / MAX_PIXELS


def memory_budget(pixels: int) -> int:
    """Bytes that the same may take: 134 MB to 1.28 GB; WebP needs 17 for each pixel."""
    return 2**27 + 17 * pixels


class GuardedFile(io.BytesIO):
    """An image file in memory that may be read a limited number of times.

    Raises:
        InvalidImageError: from `read`, after `MAX_READS` of them.
    """

    def __init__(self, data: bytes):
        super().__init__(data)
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `io.BytesIO` does."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise too_many_parts()
        return super().read(size)


def too_many_parts() -> InvalidImageError:
    """The error for a file of more parts than any encoder writes."""
    return InvalidImageError(
        f"The image's header is longer than {MAX_HEADER_BYTES:,} bytes or has more parts than any "
        "encoder writes. Save the image again without metadata."
    )


def damaged(name: str) -> InvalidImageError:
    """The error for a file of this format whose pixels are not all there."""
    return InvalidImageError(
        f"The {name} image is damaged or incomplete and cannot be decoded. "
        "Write or transfer the file again."
    )


def check_scans(scans: int) -> None:
    """Refuse a JPEG with more scans than encoders write.

    Raises:
        InvalidImageError: more than `MAX_SCANS`.
    """
    if scans > MAX_SCANS:
        raise InvalidImageError(
            f"The JPEG image has {scans:,} scans; at most {MAX_SCANS} are accepted. "
            "Save it again, not progressive."
        )


def check_tiff(image: Image.Image) -> None:
    """Refuse a TIFF whose strips or tiles hold more pixels than the picture.

    Args:
        image: the image, opened but not yet decoded.

    Raises:
        InvalidImageError: tiles are larger than the picture, or several are the same bytes.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    for tag, side in ((_TILE_WIDTH, image.width), (_TILE_HEIGHT, image.height)):
        if tags.get(tag, 0) > max(side + 15, _MAX_TILE_SIDE):
            raise InvalidImageError(
                f"The TIFF image of {image.width}x{image.height} pixels has tiles with a side of "
                f"{tags[tag]:,}. Save it again without tiles."
            )
    for offsets, sizes in _BLOCKS.items():
        if _overlap(tags.get(offsets, ()), tags.get(sizes, ())):
            raise InvalidImageError(
                "The TIFF image has several strips or tiles that are the same bytes of the file. "
                "Save it again."
            )


def _overlap(offsets: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether two blocks begin at the same byte; those without a size are not in the file."""
    if len(sizes) == len(offsets):
        offsets = [offset for offset, size in zip(offsets, sizes, strict=True) if size]
    return len(set(offsets)) < len(offsets)
