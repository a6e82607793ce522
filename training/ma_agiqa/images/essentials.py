"""The parts of PNG and JPEG files that hold pixels; a decoder sees nothing else.

Generators and phones add megabytes that are no pixels: workflows, profiles, previews, manifests,
whole videos. Some of it Pillow refuses, where OpenCV and browsers show the picture; all of it costs
time. So text, profiles, previews, comments and what follows the end of the image are left out.
EXIF and XMP stay, because they say how the picture is to be turned.
"""

import re
import zlib
from collections.abc import Iterator

from ma_agiqa.errors import InvalidImageError
from ma_agiqa.images.limits import (
    MAX_HEADER_BYTES,
    MAX_PARTS,
    MAX_SEGMENTS,
    damaged,
    too_many_parts,
)

_MAX_TURNING_BYTES = 2**16  # of a PNG's EXIF or XMP data; those of a JPEG cannot be longer
_MAX_TEXT_BYTES = 2**20  # which Pillow decompresses
_PNG_SIGNATURE_BYTES = 8
_CHUNK_NAME = re.compile(rb"[A-Za-z]{4}")
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP14, _COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
_STANDALONE = (0x01, *range(0xD0, 0xD8))  # markers without a segment, which say nothing
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_READ_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
# Two bytes each, so that no repetition is tried again and again: 0xFF may be repeated at will.
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MARKER_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def png_essentials(data: bytes) -> bytes:
    """A PNG without text, profiles, animation, and what follows its end.

    A chunk that is left out may be damaged. Pillow does not compare the checksums of pixels, which
    a download that was cut may have filled with zeros.

    Args:
        data: the file, which begins with the signature of PNG.

    Raises:
        InvalidImageError: more chunks than `MAX_PARTS`, or one with another checksum than its own.
    """
    view = memoryview(data)
    kept, at = [view[:_PNG_SIGNATURE_BYTES]], _PNG_SIGNATURE_BYTES
    for _ in range(MAX_PARTS):
        name = data[at + 4 : at + 8]
        if not _CHUNK_NAME.fullmatch(name):
            kept.append(view[at:])
            break
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        needed = name[:1].isupper()
        if needed and name != b"IEND" and not _is_sound(view[at + 4 : end]):
            raise damaged("PNG")
        if needed or _turns_png(name, view[at + 4 : end]):
            kept.append(view[at:end])
        if name == b"IEND" or end >= len(data):
            break
        at = end
    else:
        raise too_many_parts()
    return b"".join(kept)


def _is_sound(chunk: memoryview) -> bool:
    """Whether a chunk, from its name to its checksum, has that checksum."""
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:], "big")


def _turns_png(name: bytes, chunk: memoryview) -> bool:
    """Whether a chunk, from its name to its checksum, is sound and says how to turn the picture."""
    if len(chunk) > _MAX_TURNING_BYTES or not _is_sound(chunk):
        return False
    body = bytes(chunk[4:-4])
    if name == b"zTXt" and body.startswith(_EXIF_TEXT):
        text = zlib.decompressobj()
        try:
            text.decompress(body[len(_EXIF_TEXT) + 1 :], _MAX_TEXT_BYTES)
        except zlib.error:
            return False
        return text.eof
    not_compressed = _XMP_TEXT + b"\0"
    return (
        name == b"eXIf"
        or (name == b"tEXt" and body.startswith(_EXIF_TEXT))
        or (name == b"iTXt" and body.startswith(not_compressed))
    )


def jpeg_essentials(data: bytes) -> tuple[bytes, int]:
    """A JPEG without previews, profiles, comments, fill bytes, and what follows its end.

    Segments are found as libjpeg finds them, so that the scans that are counted are those that it
    will decode.

    Args:
        data: the file, which begins with the marker SOI.

    Returns:
        The file, and its number of scans.

    Raises:
        InvalidImageError: more segments, or longer ones, than `images.limits` allows; a kind of
            JPEG that is not read; or no end of the image, for which libjpeg does not look.
    """
    kept, scans, header_bytes = [data[:2]], 0, 0
    present: set[int] = set()
    for code, segment in _jpeg_segments(data):
        if code in _FRAMES:
            _check_frame(code, segment)
        if code == _SOS:
            scans += 1
        elif _is_metadata(code, segment, present):
            continue
        else:
            header_bytes += len(segment)
        if header_bytes > MAX_HEADER_BYTES:
            raise too_many_parts()
        kept.append(segment)
    return b"".join(kept), scans


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The segments with their markers, to the end of the image; that of a scan has its data."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if not found:
            raise damaged("JPEG")
        begin, code = found.start(), data[found.end() - 1]
        at = found.end()
        if code in (_EOI, _SOI):
            yield code, data[begin:at]
            if code == _EOI:
                return
        if code in (_SOI, *_STANDALONE):
            continue
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
        if code == _SOS:
            after = _MARKER_AFTER_SCAN.search(data, at)
            at = after.start() if after else len(data)
        yield code, data[begin:at]
    raise too_many_parts()


def _is_metadata(code: int, segment: bytes, present: set[int]) -> bool:
    """Whether a segment is left out; of EXIF, XMP and JFIF the first one is kept.

    Args:
        code: the segment's marker.
        segment: the segment, from its marker.
        present: markers and kinds that have been kept, which grows.
    """
    if code == _COMMENT or _APP0 <= code <= 0xEF:
        body = segment[4:40]
        starts = {_APP0: (b"JFIF",), _APP1: (_EXIF, _XMP), _APP14: (b"Adobe",)}
        for number, start in enumerate(starts.get(code, ())):
            kind = code * 2 + number
            if body.startswith(start) and kind not in present:
                present.add(kind)
                return False
        return True
    return False


def _check_frame(code: int, segment: bytes) -> None:
    bits = segment[4] if len(segment) > 4 else 8
    if code in _READ_FRAMES and bits == 8:
        return
    kind = f"{bits} bits a channel" if code in _READ_FRAMES else "a lossless or hierarchical kind"
    raise InvalidImageError(
        f"The JPEG image has {kind}, which is not read. Save it as PNG, or as JPEG of 8 bits."
    )
