"""Image files as an attacker makes them: real ones with changes, and ones that cost much time."""

import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from support.pictures import encoded

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x2000, 0x2001, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
"""Values at the borders of sizes, counts, offsets and of the largest accepted side (8192)."""

HEADER_BYTES = 200
WAYS = ("flip", "number", "delete", "repeat", "insert", "truncate", "splice")


@cache
def real_files() -> tuple[bytes, ...]:
    """Small files of every accepted format, in the variants that are decoded by code of their own.

    Their pixels are those of a shipped example.
    """
    with Image.open(sorted(EXAMPLES.glob("*_pristine.jpg"))[0]) as example:
        rgb = example.convert("RGB").resize((53, 37))
    gray, palette = rgb.convert("L"), rgb.quantize(16)
    alpha = rgb.convert("RGBA")
    sixteen = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [rgb.rotate(90)]}
    variants: list[tuple[Image.Image, str, dict[str, object]]] = [
        *((rgb, "JPEG", o) for o in ({}, {"progressive": True}, {"exif": exif}, {"quality": 5})),
        *((image, "JPEG", {}) for image in (gray, rgb.convert("CMYK"))),
        *((image, "PNG", {}) for image in (rgb, gray, palette, alpha, sixteen, rgb.convert("1"))),
        *((rgb, "WEBP", o) for o in ({}, {"lossless": True}, frames)),
        *((image, "BMP", {}) for image in (rgb, gray, palette, alpha)),
        *((image, "PPM", {}) for image in (rgb, gray, sixteen)),
        *((palette, "GIF", o) for o in ({}, {"interlace": 1})),
        (rgb, "GIF", frames),
        *((rgb, "TIFF", {"compression": c}) for c in (None, "tiff_lzw", "tiff_adobe_deflate")),
        *((rgb, "TIFF", {"compression": c}) for c in ("jpeg", "packbits")),
        *((image, "TIFF", {}) for image in (palette, alpha, sixteen)),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        *((rgb, "TIFF", {"compression": c}) for c in ("zstd", "lzma")),
        (rgb, "AVIF", {"speed": 10}),
    ]
    files = tuple(encoded(image, name, **options) for image, name, options in variants)
    pam = b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + bytes(8)
    return (*files, pam, b"P6 # made\n2 1\n4095\n" + bytes(12), rle_bmp(16, 4, b"\x10\7\0\0" * 4))


def mutated_file(seed: int) -> bytes:
    """A real file with one to six changes, most of them in the header."""
    random = Random(seed)
    data = bytearray(random.choice(real_files()))
    for _ in range(random.randint(1, 6)):
        place = random.randint(0, HEADER_BYTES if random.random() < 0.5 else 2**16)
        number = random.choice((random.choice(NUMBERS), random.randrange(2**32)))
        layout = random.choice(("<H", ">H", "<I", ">I", "B"))
        _change(data, random.choice(WAYS), place % (len(data) + 1), number, layout)
    return bytes(data)


def _change(data: bytearray, way: str, at: int, number: int, layout: str) -> None:
    size = struct.calcsize(layout)
    value = struct.pack(layout, number % 256**size)
    if way == "flip" and at < len(data):
        data[at] ^= 1 << number % 8
    elif way == "number":
        data[at : at + size] = value
    elif way == "delete":
        del data[at : at + 1 + number % 64]
    elif way == "repeat":
        data[at:at] = data[at : at + 64] * (1 + number % 16)
    elif way == "insert":
        data[at:at] = value
    elif way == "truncate":
        del data[at:]
    elif way == "splice":
        other = real_files()[number % len(real_files())]
        data[at:] = other[at % len(other) :]


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, further: bytes = b"", pixels: bytes | None = None) -> bytes:
    """A black PNG; a bomb if it is large: one byte for about a thousand pixels.

    Args:
        width: in pixels.
        height: likewise.
        further: chunks before those of the pixels.
        pixels: in place of as many as the header announces.
    """
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes((3 * width + 1) * height) if pixels is None else pixels, 9)
    chunks = png_chunk(b"IHDR", header) + further + png_chunk(b"IDAT", data)
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def costly_files(size: int) -> dict[str, bytes]:
    """Files of about `size` bytes that keep a decoder busy without being large in pixels."""
    jpeg = encoded(Image.new("RGB", (16, 16)), "JPEG")
    progressive = encoded(Image.new("RGB", (1024, 1024)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return {
        "PNG of empty chunks": png(8, 8, png_chunk(b"teSt", b"") * (size // 12)),
        "JPEG of empty segments": jpeg[:2] + b"\xff\xfe\0\2" * (size // 4) + jpeg[2:],
        "JPEG of empty scans": progressive[:-2] + scan * (size // len(scan)) + b"\xff\xd9",
        "PPM of comments": b"P6\n" + b"#\n" * (size // 2) + b"8 8\n255\n" + bytes(192),
        "text PPM": b"P3 16 16 255\n" + b"#\n" * (size // 2) + b"1 " * 768,
        "GIF of junk": b"GIF89a\x08\0\x08\0\0\0\0" + b"\1" * size,
    }


def bulky_files(size: int) -> dict[str, bytes]:
    """Small pictures in files of about `size` bytes, which a decoder has to pass over."""
    jpeg = encoded(Image.new("RGB", (16, 16)), "JPEG")
    segment = b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)
    return {
        "JPEG of fill bytes": jpeg[:2] + b"\xff" * size + jpeg[2:],
        "JPEG of full segments": jpeg[:2] + segment * (size // len(segment)) + jpeg[2:],
        "JPEG with a video behind it": jpeg + bytes(range(256)) * (size // 256),
        "PNG with a long text": png(8, 8, png_chunk(b"tEXt", b"workflow\0" + bytes(size))),
        "PNG with its tail": png(8, 8) + bytes(size),
    }


def rle_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP of 8-bit gray values in runs: count and value; 0, 0 ends a row."""
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    sizes = (40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + 40 + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", *sizes) + palette + runs


def tiff(tags: dict[int, int | tuple[int, int, int]], blob: bytes = b"") -> bytes:
    """A little-endian TIFF: each tag a number, or type, count and value; `blob` lies at 8."""
    head = b"II*\0" + struct.pack("<I", 8 + len(blob)) + blob
    entries = [(tag, *(v if isinstance(v, tuple) else (4, 1, v))) for tag, v in tags.items()]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return head + struct.pack("<H", len(entries)) + body + bytes(4)


def gray_tiff(width: int, height: int, pixels: bytes, **tags: int) -> bytes:
    """A TIFF of one strip; `tags` are named t273 and so on."""
    plain = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    given = {int(name[1:]): value for name, value in tags.items()}
    return tiff({**plain, 279: len(pixels), **given}, pixels)


def shared_blocks_tiff(
    side: int, blocks: int, block: bytes, compression: int, tiles: bool
) -> bytes:
    """A TIFF whose strips, or square tiles, are all the same bytes."""
    offsets, sizes = (struct.pack("<I", number) * blocks for number in (8, len(block)))
    where = ((4, blocks, 8 + len(block)), (4, blocks, 8 + len(block) + len(offsets)))
    tile = round(side / blocks**0.5)
    layout: dict[int, int | tuple[int, int, int]] = (
        {322: tile, 323: tile, 324: where[0], 325: where[1]}
        if tiles
        else {273: where[0], 278: max(1, side // blocks), 279: where[1]}
    )
    plain = {256: side, 257: side, 258: 8, 259: compression, 262: 1, 277: 1}
    return tiff({**plain, **layout}, block + offsets + sizes)


def zeros(size: int) -> bytes:
    """This many zeros, deflated."""
    return zlib.compress(bytes(size), 9)


def many_scans(side: int, scans: int) -> bytes:
    """A progressive gray JPEG with this many scans more than an encoder writes."""
    jpeg = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * scans + b"\xff\xd9"


def structured_file(seed: int) -> bytes:
    """A file whose structure makes a decoder do far more than its bytes or pixels let expect."""
    choose = Random(seed).choice
    kind = choose(range(9))
    side = choose((8, 64, 512, 2048, 4096, 8192))
    blocks = choose((1, 4, 64, 1024, 4096))
    scans = choose((0, 5, 20, 90))
    match kind:
        case 0:
            return shared_blocks_tiff(side, blocks, many_scans(64, scans), 7, choose((False, True)))
        case 1:
            return shared_blocks_tiff(side, blocks, zeros(2**20), 8, choose((False, True)))
        case 2:
            tile = choose((1024, 8192, 32768, 65520))
            data = zeros(min(tile * tile, 2**27))
            extent = {256: 16, 257: side, 258: 8, 259: 8, 262: 1, 277: 1}
            return tiff({**extent, 322: tile, 323: tile, 324: 8, 325: len(data)}, data)
        case 3:
            count = choose((10, 100_000, 2_000_000))
            blob = struct.pack("<II", 1, 3) * count
            tag = choose((282, 283, 50_000, 34_665))
            extent = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
            return tiff({**extent, tag: (5, count, 8)}, blob)
        case 4:
            runs = choose((b"\1\7\0\0", b"\xff\7", b"\0\2\0\xff", b"\2\1\0\0"))
            return rle_bmp(side, choose((1, 255, side)), runs * side)
        case 5:
            return many_scans(min(side, 4096), scans)
        case 6:
            return gray_tiff(side, side, zeros(side * side), t259=8)
        case 7:
            return png(side, choose((1, side)), png_chunk(b"zTXt", b"a\0\0" + zeros(2**25)))
        case _:
            image = Image.new("RGB", (choose((1, side)), side))
            name = choose(("GIF", "WEBP", "AVIF", "PPM", "TIFF"))
            return encoded(image, name)
