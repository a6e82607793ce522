"""Files as generators, phones and scientific software write them: read as OpenCV does, or named."""

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from ma_agiqa.errors import ConfigError, InvalidImageError
from ma_agiqa.images.essentials import jpeg_essentials
from ma_agiqa.images.picture import Picture
from ma_agiqa.images.views import decode
from support.hostile_files import gray_tiff, many_scans, png_chunk, rle_bmp, shared_blocks_tiff
from support.hostile_files import tiff as tiff_file
from support.pictures import encoded, noise, picture

RGB = picture(3, 36, 48)
GRAY = RGB[..., 0].copy()
PNG = encoded(Image.fromarray(RGB), "PNG")
JPEG = encoded(Image.fromarray(RGB), "JPEG", quality=92)
LONG_TEXT = b'{"nodes":[' + b'{"id":1,"type":"KSampler"},' * 60_000 + b"]}"
AFTER_HEADER, BEFORE_END = 33, -12


def by_opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def bad_checksum(name: bytes, body: bytes) -> bytes:
    return png_chunk(name, body)[:-4] + b"\0\0\0\1"


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("place", [AFTER_HEADER, BEFORE_END])
@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG_TEXT)),
        png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LONG_TEXT)),
        png_chunk(b"tEXt", b"workflow\0" + LONG_TEXT),
        png_chunk(b"zTXt", b"prompt\0\0not deflated"),
        png_chunk(b"iCCP", b"Profile\0\0" + zlib.compress(LONG_TEXT)),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(LONG_TEXT)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG_TEXT)),
        png_chunk(b"eXIf", b"II*\0" + bytes(100_000)),
        png_chunk(b"vpAg", bytes(9)),
        bad_checksum(b"iTXt", b"prompt\0\0\0\0\0a cat"),
        bad_checksum(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        bad_checksum(b"iCCP", b"Profile\0\0" + zlib.compress(bytes(500))),
        bad_checksum(b"eXIf", b"II*\0\x08\0\0\0"),
        bad_checksum(b"tRNS", bytes(6)),
        b"".join(png_chunk(b"tEXt", b"k\0v") for _ in range(3000)),
    ],
)
def test_what_else_a_png_holds_leaves_its_pixels_alone(place, chunk):
    np.testing.assert_array_equal(decode(PNG[:place] + chunk + PNG[place:]), RGB)


@pytest.mark.parametrize("end", [b"", PNG[-12:-5], PNG[-12:] + bytes(5000), PNG[-12:] + PNG])
def test_a_png_ends_where_its_pixels_end(end):
    np.testing.assert_array_equal(decode(PNG[:BEFORE_END] + end), RGB)


@pytest.mark.parametrize("place", [AFTER_HEADER, BEFORE_END])
def test_exif_of_a_png_still_turns_it(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    raw = b"\nexif\n%8d\n%s\n" % (len(body), body.hex().encode())
    for chunk in (
        png_chunk(b"eXIf", body),
        png_chunk(b"tEXt", b"Raw profile type exif\0" + raw),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
    ):
        turned = decode(PNG[:place] + chunk + PNG[place:])
        np.testing.assert_array_equal(turned, np.rot90(RGB, -1))


PREVIEW = encoded(Image.fromarray(RGB).resize((16, 12)), "JPEG", progressive=True)


@pytest.mark.parametrize(
    "data",
    [
        JPEG + b"MotionPhoto_Data\0\0\0\x18ftypmp42" + b"\xff\xda\0\0" * 100_000,
        JPEG + JPEG * 40,
        JPEG[:2] + segment(0xEB, b"JP" + PREVIEW) * 8 + JPEG[2:],
        JPEG[:2] + segment(0xE1, b"Exif\0\0MM\0*" + b"\xff\xda" * 1000) + JPEG[2:],
        JPEG[:2] + segment(0xE2, b"MPF\0II*\0\x08\0\0\0\1\0") + JPEG[2:],
        JPEG[:2] + segment(0xFE, b"\xff\xd9 a comment \xff\xda") * 100 + JPEG[2:],
        JPEG[:2] + b"\xff" * 100_000 + JPEG[2:],
        JPEG[:2] + segment(0xE0, b"JFXX\0\x10" + PREVIEW) + JPEG[2:],
        encoded(
            Image.fromarray(RGB),
            "MPO",
            quality=92,
            save_all=True,
            append_images=[Image.fromarray(picture(1))],
        ),
    ],
    ids=["motion", "pictures behind", "C2PA", "EXIF", "MPF", "comments", "fill", "JFXX", "MPO"],
)
def test_what_else_a_jpeg_holds_leaves_its_pixels_alone(data):
    np.testing.assert_array_equal(decode(data), decode(JPEG))
    np.testing.assert_array_equal(decode(JPEG), by_opencv(JPEG))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_that_ends_in_zeros_is_refused(kind):
    """As a download that was cut leaves it, where the file had its whole length before."""
    data = encoded(noise(0, 300, 400), kind)
    there = len(data) * 95 // 100
    with pytest.raises(InvalidImageError, match=f"The {kind} image is damaged or incomplete"):
        decode(data[:there] + bytes(len(data) - there))


def test_pillow_must_not_fill_in_what_a_file_lacks(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match=r"LOAD_TRUNCATED_IMAGES is True .* Set it to False\."):
        decode(JPEG)


def test_scans_are_counted_along_the_markers():
    assert jpeg_essentials(JPEG + b"\xff\xda" * 40)[1] == 1
    own = jpeg_essentials(PREVIEW)[1]
    assert own > 4
    assert jpeg_essentials(many_scans(16, 20))[1] == jpeg_essentials(many_scans(16, 0))[1] + 20
    with pytest.raises(InvalidImageError, match=r"JPEG image has 4\d scans; at most 32"):
        decode(many_scans(16, 40))


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xCB])
def test_kinds_of_jpeg_that_are_not_read_are_named(marker):
    frame = JPEG.index(b"\xff\xc0")
    with pytest.raises(InvalidImageError, match="lossless or hierarchical"):
        decode(JPEG[: frame + 1] + bytes((marker,)) + JPEG[frame + 2 :])
    with pytest.raises(InvalidImageError, match="12 bits a channel"):
        decode(JPEG[: frame + 4] + b"\x0c" + JPEG[frame + 5 :])


def netpbm(kind: str, largest: int, values: np.ndarray) -> bytes:
    height, width = values.shape[:2]
    samples = values.astype(">u2" if largest > 255 else np.uint8).tobytes()
    return f"{kind} # made\n{width}\n#\n {height} {largest}\n".encode() + samples


@pytest.mark.parametrize("largest", [1, 100, 254, 255, 256, 1023, 4095, 65535])
def test_netpbm_of_any_largest_value(largest):
    values = (RGB.astype(int) * largest // 255).clip(0, largest)
    if largest < 256:
        expected = np.rint(values / largest * 255)
    else:
        expected = np.rint(values / largest * 65535).astype(int) >> 8
    np.testing.assert_array_equal(decode(netpbm("P6", largest, values)), expected)
    gray = decode(netpbm("P5", largest, values[..., 0]))
    np.testing.assert_array_equal(gray, expected[..., :1].repeat(3, axis=2))
    with Image.open(io.BytesIO(netpbm("P5", largest, values[..., 0]))) as image:
        by_pillow = np.asarray(image).astype(int) >> (8 if largest > 255 else 0)
    np.testing.assert_array_equal(gray[..., 0], by_pillow)


def pam(kind: str, largest: int, values: np.ndarray) -> bytes:
    height, width, depth = values.shape
    head = f"P7\n# made\nWIDTH {width}\nHEIGHT {height}\nDEPTH {depth}\nMAXVAL {largest}\n"
    return f"{head}TUPLTYPE {kind}\nENDHDR\n".encode() + values.astype(np.uint8).tobytes()


def test_pam_and_bitmaps():
    alpha = np.dstack([RGB, GRAY])
    np.testing.assert_array_equal(decode(pam("RGB", 255, RGB)), RGB)
    np.testing.assert_array_equal(decode(pam("RGB_ALPHA", 255, alpha)), RGB)
    gray = GRAY[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(decode(pam("GRAYSCALE", 255, GRAY[..., None])), gray)
    np.testing.assert_array_equal(decode(pam("GRAYSCALE_ALPHA", 255, alpha[..., ::3])), gray)
    bits = GRAY[:, :45] > 100
    black_and_white = pam("BLACKANDWHITE", 1, bits[..., None])
    bitmap = encoded(Image.fromarray(bits), "PPM")
    assert bitmap.startswith(b"P4")
    for data in (black_and_white, bitmap):
        np.testing.assert_array_equal(decode(data), 255 * bits[..., None].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P3 1 1 255\n1 2 3", "written as text"),
        (b"PF 1 1 -1.0\n" + bytes(12), "floating-point"),
        (b"Pf 1 1 -1.0\n" + bytes(4), "floating-point"),
        (b"P6 0 5 255\n", "header of the PPM"),
        (b"P6 2 2 65536\n" + bytes(24), "header of the PPM"),
        (b"P6 2 2\n", "header of the PPM"),
        (b"P6\n" + b"#\n" * 100_000 + b"1 1 255\n123", "header of the PPM"),
        (pam("CMYK", 255, np.dstack([RGB, GRAY])), "header of the PPM"),
        (b"P6 2 2 255\n" + bytes(11), "PPM image is damaged or incomplete"),
        (b"P6 8193 1 255\n", "8193x1 pixels"),
    ],
)
def test_netpbm_that_cannot_be_read_is_named(data, reason):
    with pytest.raises(Exception, match=reason) as caught:
        decode(data)
    assert type(caught.value).__name__ in ("InvalidImageError", "ImageTooLargeError")


SIXTEEN = GRAY.astype(np.uint16) * 257


def integer_tiff(values: np.ndarray, bits: int, sample_format: int, photometric: int = 1) -> bytes:
    height, width = values.shape
    options = {"t258": bits, "t339": sample_format, "t262": photometric}
    return gray_tiff(width, height, values.tobytes(), **options)


def test_integer_tiffs_as_opencv_shows_them():
    for photometric in (0, 1):
        for values, bits in ((GRAY, 8), (SIXTEEN, 16)):
            data = integer_tiff(values, bits, 1, photometric)
            np.testing.assert_array_equal(decode(data), by_opencv(data))


def test_12_bits_use_the_whole_range():
    values = GRAY.astype(np.uint16).reshape(-1, 2) << 4
    first, second = values.T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    data = gray_tiff(48, 36, packed.astype(np.uint8).tobytes(), t258=12)
    np.testing.assert_array_equal(decode(data)[..., 0], GRAY)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (integer_tiff(GRAY.astype(np.int32), 32, 2), "integer pixels, whose range is not known"),
        (integer_tiff(GRAY.astype(np.uint32), 32, 1), "integer pixels, whose range is not known"),
        (integer_tiff(GRAY.astype(np.int16), 16, 2), "integer pixels, whose range is not known"),
        (integer_tiff(GRAY.astype(np.uint16), 16, 1), "would be scored as black"),
        (encoded(Image.fromarray(GRAY.astype(np.uint16)), "PNG"), "would be scored as black"),
        (integer_tiff(GRAY.astype(np.float32), 32, 3), "floating-point"),
        (integer_tiff(GRAY.astype(np.float64), 64, 3), "header of the TIFF image"),
        (encoded(Image.new("LAB", (8, 8)), "TIFF"), "kind LAB"),
    ],
)
def test_pixels_of_an_unknown_range_are_never_scored_as_black(data, reason):
    with pytest.raises(InvalidImageError, match=reason):
        decode(data)


def test_black_is_black():
    black = Image.fromarray(np.zeros((8, 8), np.uint16))
    assert not decode(encoded(black, "PNG")).any()


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_avif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RGB), "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    turned = np.rot90(RGB, {1: 0, 3: 2, 6: -1}[orientation])
    assert np.abs(decode(data).astype(int) - turned).max() < 12


@pytest.mark.parametrize(
    ("begin", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "MP4"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
        (b'  <svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_formats_that_are_not_read_are_named(begin, name):
    with pytest.raises(InvalidImageError, match=rf"of the format {name}.*Send one of JPEG, PNG"):
        decode(begin)


def test_run_length_encoded_bmp():
    values = GRAY // 64 * 64
    runs = b"".join(b"".join(bytes((1, v)) for v in row) + b"\0\0" for row in values[::-1])
    data = rle_bmp(48, 36, runs + b"\0\1")
    assert not Picture(data).bounded
    np.testing.assert_array_equal(decode(data), values[..., None].repeat(3, axis=2))


def test_tiffs_whose_blocks_hold_more_than_the_picture_are_refused():
    for tiles in (False, True):
        with pytest.raises(InvalidImageError, match="several strips or tiles"):
            decode(shared_blocks_tiff(256, 16, many_scans(64, 5), 7, tiles))
    side = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 324: 8, 325: 64}
    with pytest.raises(InvalidImageError, match="tiles with a side of 32,768"):
        decode(tiff_file({**side, 322: 32768, 323: 65520}, bytes(64)))
    pixels = np.random.default_rng(0).integers(0, 256, 256 * 256, np.uint8)
    whole = tiff_file({**side, 322: 256, 323: 256, 325: pixels.size}, pixels.tobytes())
    np.testing.assert_array_equal(decode(whole)[..., 0], pixels.reshape(256, 256)[:16, :16])


def test_damaged_metadata_with_a_turn_turns():
    warnings.simplefilter("ignore")
    for entry in ((0x102, 4, 1, 70_000), (0x11A, 2, 4, 0x3237), (0x128, 2, 2, 0x32)):
        rows = b"".join(struct.pack("<HHII", *row) for row in sorted([(0x112, 3, 1, 6), entry]))
        exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + rows + bytes(4)
        data = JPEG[:2] + segment(0xE1, exif) + JPEG[2:]
        np.testing.assert_array_equal(decode(data), by_opencv(data))
        assert decode(data).shape == (48, 36, 3)
