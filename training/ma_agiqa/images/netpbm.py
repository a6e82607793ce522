"""Reader of Netpbm files: binary PBM, PGM, PPM (P4 to P6) and PAM (P7), of any largest value.

Pillow reads those whose largest value is not 255 or 65535 pixel by pixel in Python, 1 us each, and
no PAM at all.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ma_agiqa.errors import InvalidImageError
from ma_agiqa.images.limits import damaged

_HEADER_BYTES = 2**16
_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*(\d{1,10})")
_PAM_LINE = re.compile(rb"(?:#[^\n]*|[ \t]*([A-Z]+)[ \t]+([^\n]*?)[ \t\r]*|[ \t\r]*)\n")
_PAM_END = re.compile(rb"[ \t]*ENDHDR[ \t\r]*\n")
_CHANNELS = {b"P4": 1, b"P5": 1, b"P6": 3}
_TEXT, _FLOAT = (b"P1", b"P2", b"P3"), (b"Pf", b"PF")
_PAM_KINDS = (b"", b"BLACKANDWHITE", b"GRAYSCALE", b"RGB")


@dataclass(frozen=True)
class Netpbm:
    """A Netpbm file whose header has been read.

    Attributes:
        width, height: size in pixels.
        channels: 1 to 4: gray or RGB, each with or without alpha.
        largest: largest value of a sample, 1 to 65535.
        bitmap: whether there are eight pixels in a byte, where 1 is black.
        samples: the bytes after the header.
    """

    width: int
    height: int
    channels: int
    largest: int
    bitmap: bool
    samples: memoryview

    def rgb(self) -> npt.NDArray[np.uint8]:
        """The pixels, uint8 (height, width, 3); larger samples keep their high byte.

        Raises:
            InvalidImageError: the file ends before the last pixel.
        """
        row = (self.width + 7) // 8 if self.bitmap else self.width * self.channels
        kind = np.dtype(np.uint8 if self.largest < 256 else ">u2")
        if len(self.samples) < row * self.height * kind.itemsize:
            raise damaged("PPM")
        values = np.frombuffer(self.samples, kind, row * self.height).reshape(self.height, row)
        if self.bitmap:
            values = 1 - np.unpackbits(values.astype(np.uint8), axis=1, count=self.width)
        if self.largest != 255:
            values = self._bytes()[values]
        colors = values.reshape(self.height, self.width, self.channels)
        return np.ascontiguousarray(
            colors[..., :3] if self.channels > 2 else colors[..., :1].repeat(3, axis=2)
        )

    def _bytes(self) -> npt.NDArray[np.uint8]:
        """The byte for each value that a sample may have."""
        if self.largest > 255:
            share = np.arange(2**16).clip(max=self.largest) / self.largest
            return (np.rint(share * 65535).astype(np.uint16) >> 8).astype(np.uint8)
        share = np.arange(2**8).clip(max=self.largest) / self.largest
        return np.rint(share * 255).astype(np.uint8)


def read_header(data: bytes) -> Netpbm:
    """Read the header of a file that begins with P and a digit or letter.

    Raises:
        InvalidImageError: no binary Netpbm file of whole numbers, or its header is damaged.
    """
    kind = data[:2]
    if kind in _TEXT:
        raise InvalidImageError(
            "The image is PPM written as text (P1 to P3). Save it as binary PPM or PNG."
        )
    if kind in _FLOAT:
        raise InvalidImageError(
            "The image has floating-point pixels, whose range is not known. Save it as 8-bit RGB."
        )
    header = data[:_HEADER_BYTES]
    try:
        width, height, channels, largest, end = (
            _pam(header) if kind == b"P7" else _tokens(header, kind)
        )
    except (KeyError, ValueError) as error:
        raise InvalidImageError(
            "The header of the PPM image is damaged, or of a kind that is not read. "
            "Save it as 8-bit PPM or PNG."
        ) from error
    return Netpbm(width, height, channels, largest, kind == b"P4", memoryview(data)[end:])


def _tokens(header: bytes, kind: bytes) -> tuple[int, int, int, int, int]:
    numbers, at = [], 2
    for _ in range(2 if kind == b"P4" else 3):
        found = _TOKEN.match(header, at)
        if not found:
            raise ValueError("a number is missing")
        numbers.append(int(found[1]))
        at = found.end()
    width, height, largest = numbers if len(numbers) == 3 else (*numbers, 1)
    return _checked(width, height, _CHANNELS[kind], largest, at + 1)


def _pam(header: bytes) -> tuple[int, int, int, int, int]:
    fields: dict[bytes, bytes] = {}
    at = header.index(b"\n") + 1
    while not (end := _PAM_END.match(header, at)):
        found = _PAM_LINE.match(header, at)
        if not found:
            raise ValueError("a line is damaged")
        if found[1]:
            fields[found[1]] = found[2]
        at = found.end()
    if fields.get(b"TUPLTYPE", b"").removesuffix(b"_ALPHA") not in _PAM_KINDS:
        raise ValueError("unknown colors")
    width, height, channels, largest = (
        int(fields[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL")
    )
    return _checked(width, height, channels, largest, end.end())


def _checked(
    width: int, height: int, channels: int, largest: int, end: int
) -> tuple[int, int, int, int, int]:
    if min(width, height) < 1 or not 1 <= channels <= 4 or not 1 <= largest <= 65535:
        raise ValueError("a number is out of range")
    return width, height, channels, largest, end
