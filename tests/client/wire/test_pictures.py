"""Pillow images and files as the server sees them, also those whose metadata is damaged."""

import io

import numpy as np
import pytest
from PIL import Image

from ma_agiqa_client import InvalidImageError, Scorer
from ma_agiqa_client._wire.images import Encoder
from ma_agiqa_client._wire.pictures import as_served, open_picture
from support.pictures import encoded, noise

RGB = noise(7, 20, 40)
TURN_RIGHT = (0x0112, 3, 6)  # orientation, SHORT


def exif(*entries: tuple[int, int, int | bytes]) -> bytes:
    """EXIF of little-endian TIFF: tag, type, and a value, or the bytes that the value points at."""
    count = len(entries)
    head = b"Exif\0\0II*\0\x08\0\0\0" + count.to_bytes(2, "little")
    table, data = b"", b""
    for tag, kind, value in entries:
        field = tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        if isinstance(value, bytes):
            offset = 8 + 2 + 12 * count + 4 + len(data)
            field, data = field + offset.to_bytes(4, "little"), data + value
        else:
            field += value.to_bytes(4, "little", signed=value < 0)
        table += field
    return head + table + bytes(4) + data


ODD = {
    "BitsPerSample is LONG": (0x0102, 4, 8),
    "BitsPerSample is DOUBLE": (0x0102, 12, bytes(8)),
    "XResolution is -1/0": (0x011A, 10, b"\xff\xff\xff\xff\0\0\0\0"),
    "XResolution is text": (0x011A, 2, 0x61626300),
    "ResolutionUnit is text": (0x0128, 2, 0x61626300),
    "ImageWidth is negative": (0x0100, 9, -5),
    "a type that does not exist": (0x0100, 77, 5),
    "a value outside the file": (0x013B, 7, 0x7FFFFFFF),
}


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_metadata_next_to_an_orientation(odd, name):
    """Pillow's `exif_transpose` writes the metadata again, which it cannot do with these."""
    entries = sorted([ODD[odd], TURN_RIGHT])
    lossless = {"lossless": True} if name == "WEBP" else {}
    data = encoded(RGB, name, exif=exif(*entries), **lossless)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.rot90(np.asarray(image), -1)
        np.testing.assert_array_equal(np.asarray(as_served(image)), upright)
    assert open_picture(io.BytesIO(data), 99, quickly=True).size == (20, 40)
    with Image.open(io.BytesIO(Encoder(max_side=20).encode(data))) as reduced:
        assert reduced.size == (10, 20)


@pytest.mark.parametrize(("value", "turned"), [(0, 0), (9, 0), (65535, 0), (8, 1), (3, 2)])
def test_orientations(value, turned):
    image = Image.open(io.BytesIO(encoded(RGB, "PNG", exif=exif((0x0112, 3, value)))))
    np.testing.assert_array_equal(np.asarray(as_served(image)), np.rot90(RGB, turned))


def test_a_batch_survives_odd_metadata(scripted):
    data = encoded(RGB, "JPEG", exif=exif(ODD["BitsPerSample is LONG"], TURN_RIGHT))
    scripted.answer = lambda image, context: 7.0
    with Scorer(scripted.url) as scorer:
        images = [Image.open(io.BytesIO(data)) for _ in range(3)]
        assert [score.mos for score in scorer.score_many(images)] == [7, 7, 7]


@pytest.mark.parametrize(
    ("pixels", "name"), [(np.int32, None), (np.int32, "TIFF"), (np.float32, "TIFF")]
)
def test_a_range_that_is_not_known_is_refused_as_a_wrong_array(pixels, name):
    """Such an image of values in 0-255 would be scored as black."""
    image = Image.fromarray(RGB[:, :, 0].astype(pixels))
    if name:
        image = Image.open(io.BytesIO(encoded(image, name)))
    with pytest.raises(InvalidImageError, match=r"mode [IF], whose range is not known") as caught:
        Encoder().encode(image)
    assert caught.value.wrong_array


@pytest.mark.parametrize("name", ["PNG", "TIFF", "PPM"])
def test_16_bits_keep_their_high_byte(name):
    deep = RGB[:, :, 0].astype(np.uint16) * 256 + 200
    data = encoded(Image.fromarray(deep), name)
    opened = open_picture(io.BytesIO(data), 99, quickly=False)
    np.testing.assert_array_equal(np.asarray(opened), RGB[:, :, 0])


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        encoded(RGB, "PCX"),
        encoded(RGB, "TGA"),
        encoded(RGB, "ICO"),
        encoded(RGB, "PDF"),
        b"text",
        b"",
    ],
    ids=["EPS", "PCX", "TGA", "ICO", "PDF", "text", "empty"],
)
def test_formats_that_the_server_refuses_are_not_opened(data, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("it ran"))
    with pytest.raises(InvalidImageError, match="cannot open"):
        open_picture(io.BytesIO(data), 99, quickly=False)
    if data:
        assert Encoder(max_side=10).encode(data) == data  # the server says what is wrong


def test_a_bomb_is_an_error_of_its_own(monkeypatch):
    data = encoded(RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(InvalidImageError, match="decompression bomb"):
        open_picture(io.BytesIO(data), 99, quickly=False)
    assert Encoder(max_side=10).encode(data) == data


def test_a_file_is_scaled_down_but_never_up(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert open_picture(str(tmp_path / "a.png"), 10, quickly=True).size == (10, 5)
    assert open_picture(str(tmp_path / "a.png"), 100, quickly=True).size == (40, 20)
