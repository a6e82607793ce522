"""Limits on image files that are made to keep a decoder busy.

A few bytes can demand a lot of work in other ways than by their width and height, and a thread that
decodes cannot be interrupted. Measured with Pillow 13 on 2 shared cores, before these limits:

    contents of an 8 MiB file                                  CPU seconds
    JPEG of fill bytes, or of empty segments, before its scan  3.4, 2.3
    PNG of empty chunks                                        2.4
    progressive JPEG of a hundred thousand empty scans         more than 40
    text PPM of comments (quadratic)                           more than 40

So the number of reads of a file and of scans in a JPEG is limited, and text PPM is refused. What
cameras, browsers and image generators write stays far below the limits.
"""

import io

from PIL import Image

from ma_agiqa.errors import InvalidImageError

MAX_READS = 250_000
"""How often a parser may read a file, 1 us each: a PNG of 64 MiB in 8 KiB chunks needs 33,000."""

MAX_HEADER_BYTES = 16 * 2**20
"""Bytes before the first scan of a JPEG, which Pillow collects in quadratic time."""

MAX_SCANS = 32
"""Scans of a progressive JPEG, 0.06 s each at 8192x8192 pixels: encoders write about 10."""

_TEXT_PPM = (b"P1", b"P2", b"P3")
_START_OF_SCAN = b"\xff\xda"
_TIFF_STRIPS, _TIFF_TILES = 273, 324


class GuardedFile(io.BytesIO):
    """An image file in memory that may be read a limited number of times.

    Raises:
        InvalidImageError: the file is text PPM; or, from `read`, it exceeds a limit of this module.
    """

    def __init__(self, data: bytes):
        if data[:2] in _TEXT_PPM:
            raise InvalidImageError(
                "The image is PPM written as text (P1 to P3). Save it as binary PPM or PNG."
            )
        super().__init__(data)
        self._reads = 0
        self._header_end = MAX_HEADER_BYTES if data[:2] == b"\xff\xd8" else len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `io.BytesIO` does."""
        self._reads += 1
        if self._reads > MAX_READS or self.tell() > self._header_end:
            raise InvalidImageError(
                f"The image's header is longer than {MAX_HEADER_BYTES:,} bytes or has more parts "
                "than any encoder writes. Save the image again without metadata."
            )
        return super().read(size)

    def header_is_read(self) -> None:
        """Lift the limit on the header: from now on the pixels are read, wherever they are."""
        self._header_end = len(self.getbuffer())


def check_scans(image: Image.Image, data: bytes) -> None:
    """Refuse a JPEG, alone or inside TIFF, with more scans than encoders write.

    Args:
        image: the image, opened but not yet decoded.
        data: the bytes of its file.

    Raises:
        InvalidImageError: more than `MAX_SCANS`, next to one for each strip or tile of a TIFF.
    """
    allowed = MAX_SCANS
    if image.format == "TIFF":
        if "jpeg" not in str(image.info.get("compression")):
            return
        tags = image.tag_v2  # type: ignore[attr-defined]
        allowed += max(len(tags.get(tag, ())) for tag in (_TIFF_STRIPS, _TIFF_TILES))
    elif image.format not in ("JPEG", "MPO"):
        return
    scans = data.count(_START_OF_SCAN)
    if scans > allowed:
        raise InvalidImageError(
            f"The JPEG image has {scans:,} scans; at most {allowed:,} are accepted. "
            "Save it again, not progressive."
        )
