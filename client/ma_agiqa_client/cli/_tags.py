"""The score in an image file's own metadata; its pixels and its other metadata stay as they are.

| format | where |
| --- | --- |
| PNG | a text chunk `ma_agiqa` with JSON |
| JPEG, WebP | XMP: a description with the namespace `urn:ma-agiqa:score:1/` |

A score that was written earlier is replaced.
"""

import json
import os
import re
import struct
import time
import zlib
from typing import Any
from xml.sax.saxutils import quoteattr

from ma_agiqa_client._wire.images import read_file
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli.maps import Failures
from ma_agiqa_client.cli.output import replacement
from ma_agiqa_client.cli.rows import Row

_PNG = b"\x89PNG\r\n\x1a\n"
_KEYWORD = b"ma_agiqa\0"
_NAMESPACE = "urn:ma-agiqa:score:1/"  # programs that rewrite XMP add a slash where there is none
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PREFIX = re.compile(rb"""xmlns:([\w.-]+)\s*=\s*["']urn:ma-agiqa:score:1/?["']""")
_TAG = re.compile(rb"""<[\w:.-]+\s(?:[^<>"']|"[^"]*"|'[^']*')*>""")
_VALUE = rb"""\s*=\s*(?:"[^"]*"|'[^']*')"""
_EMPTY = re.compile(
    rb"<rdf:Description(?:\s+rdf:about%b)?\s*(?:/>|>\s*</rdf:Description>)" % _VALUE
)
_END = b"</rdf:RDF>"
_EMPTY_XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF>'
    b'</x:xmpmeta><?xpacket end="w"?>'
)
_WEBP_XMP, _WEBP_ALPHA = 0x04, 0x10  # flags of the chunk VP8X


class Tags:
    """Writes the scores of rows into the images' files."""

    def __init__(self, card: ModelCard) -> None:
        """Prepare; files that change from now on are not written."""
        self._card = card
        self._began = time.time()
        self._done: set[str] = set()
        self.failures = Failures()

    def add(self, row: Row) -> None:
        """Write one score.

        Raises:
            OSError: the disk is full, or the like.
        """
        path = os.path.realpath(row.image)
        if row.error is not None or path in self._done:
            return
        with self.failures.of(row.image, "It was not tagged"):
            before = os.stat(path)
            if before.st_mtime > self._began:
                raise ValueError("the file has changed since it was scored. Score it again.")
            facts = {
                "mos": row.mos,
                "normalized": row.normalized,
                "percentile": row.percentile,
                "model": row.model,
                "checkpoint_sha256": self._card.checkpoint_sha256,
            }
            data = tagged(read_file(path), facts)
            with replacement(path) as draft:
                with open(draft, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(draft, before.st_mode & 0o7777)
            self._done.add(path)

    def finish(self) -> None:
        """Do nothing: every file is complete."""


def tagged(data: bytes, facts: dict[str, Any]) -> bytes:
    """Return the bytes of an image file with facts in its metadata.

    Raises:
        ValueError: it is another format, or is damaged.
    """
    try:
        if data.startswith(_PNG):
            return _png(data, facts)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data, facts)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data, facts)
    except (struct.error, IndexError) as error:
        raise ValueError(f"the file's structure is damaged ({error}).") from error
    raise ValueError("only PNG, JPEG and WebP files have a place for it.")


def _png(data: bytes, facts: dict[str, Any]) -> bytes:
    body = _KEYWORD + json.dumps(facts).encode()
    chunk = struct.pack(">I", len(body)) + b"tEXt" + body
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    parts, place = [data[:8]], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            raise IndexError("a chunk is cut off")
        if kind != b"tEXt" or not data[place + 8 :].startswith(_KEYWORD):
            parts.append(data[place:end])
        if kind == b"IHDR":
            parts.append(chunk)
        if kind == b"IEND":
            break
        place = end
    return b"".join(parts) + data[end:]


def _jpeg(data: bytes, facts: dict[str, Any]) -> bytes:
    place, old, insert = 2, None, 2
    while data[place] == 0xFF and data[place + 1] not in (0xDA, 0xD9):  # up to the picture's scan
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        end = place + 2 + length
        if data[place + 1] == 0xE1 and data[place + 4 :].startswith(_XMP):
            old = place, end
        elif insert == place and data[place + 1] in (0xE0, 0xE1):  # JFIF and Exif come first
            insert = end
        place = end
    begin, end = old or (insert, insert)
    packet = _xmp(data[begin + 4 + len(_XMP) : end] if old else _EMPTY_XMP, facts)
    body = _XMP + packet
    if len(body) + 2 > 0xFFFF:
        raise ValueError("its XMP has no room for the score.")
    return data[:begin] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[end:]


def _webp(data: bytes, facts: dict[str, Any]) -> bytes:
    chunks, place = list[tuple[bytes, bytes]](), 12
    end = min(len(data), 8 + struct.unpack("<I", data[4:8])[0])
    while place + 8 <= end:
        kind, (length,) = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])
        chunks.append((kind, data[place + 8 : place + 8 + length]))
        place += 8 + length + length % 2
    old = next((body for kind, body in chunks if kind == b"XMP "), _EMPTY_XMP)
    chunks = [chunk for chunk in chunks if chunk[0] != b"XMP "]
    if chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _extended(*chunks[0])))
    head = chunks[0][1]
    chunks[0] = b"VP8X", bytes([head[0] | _WEBP_XMP]) + head[1:]
    chunks.append((b"XMP ", _xmp(old, facts)))
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2)
        for kind, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body + data[end:]


def _extended(kind: bytes, picture: bytes) -> bytes:
    """Return the body of the chunk VP8X, for a file that has only a picture."""
    width: int
    height: int
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", picture[1:5])
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:
        width, height = (size & 0x3FFF for size in struct.unpack("<HH", picture[6:10]))
        width, height, alpha = width - 1, height - 1, 0
    flags = bytes([_WEBP_ALPHA * alpha, 0, 0, 0])
    return flags + width.to_bytes(3, "little") + height.to_bytes(3, "little")


def _xmp(packet: bytes, facts: dict[str, Any]) -> bytes:
    """Return a packet with the facts; what others wrote into it stays."""
    values = " ".join(f"ma_agiqa:{name}={quoteattr(str(value))}" for name, value in facts.items())
    ours = f'<rdf:Description rdf:about="" xmlns:ma_agiqa="{_NAMESPACE}" {values}/>'.encode()
    packet = _without_ours(packet)
    if _END not in packet:
        raise ValueError("its XMP cannot be read.")
    before, _, after = packet.rpartition(_END)
    return before + ours + _END + after


def _without_ours(packet: bytes) -> bytes:
    """Remove an earlier score: attributes or elements, with whatever prefix."""
    prefix = b"|".join(map(re.escape, set(_PREFIX.findall(packet))))
    if not prefix:
        return packet
    attributes = re.compile(rb"\s+(?:xmlns:(?:%b)|(?:%b):[\w.-]+)%b" % (prefix, prefix, _VALUE))
    elements = re.compile(rb"<((?:%b):[\w.-]+)(\s[^<>]*?)?(/>|>.*?</\1\s*>)\s*" % prefix, re.S)
    packet = _TAG.sub(lambda tag: attributes.sub(b"", tag[0]), elements.sub(b"", packet))
    return _EMPTY.sub(b"", packet)
