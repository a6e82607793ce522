"""What the client sends for each kind of image: every case is decoded again with Pillow."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa_client import InvalidImageError
from ma_agiqa_client._images import encode_image

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 9), dtype=np.uint8)


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PPM"
        return np.asarray(image)


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_bytes_and_files_are_untouched(tmp_path):
    data = b"\x00not even an image\x00\x00"
    path = tmp_path / "any name"
    path.write_bytes(data)
    for image in (data, bytearray(data), memoryview(data), path, str(path)):
        assert encode_image(image) == data


@pytest.mark.parametrize("array", [RGB, GREY, RGB[:, ::2], np.asfortranarray(RGB), RGB[::-1]])
def test_uint8_arrays_keep_every_sample(array):
    np.testing.assert_array_equal(decoded(encode_image(array)), array)


def test_a_channel_axis_of_one_is_grey():
    np.testing.assert_array_equal(decoded(encode_image(GREY[:, :, None])), GREY)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_0_1_give_back_the_8_bits_they_came_from(dtype):
    every_value = np.arange(256, dtype=np.uint8).reshape(16, 16)
    array = (every_value / 255).astype(dtype)
    np.testing.assert_array_equal(decoded(encode_image(array)), every_value)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\)"),
        (np.zeros(8, np.uint8), r"shape \(8,\)"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "dtype int64"),
        (np.zeros((4, 4, 3), bool), "dtype bool"),
        (np.full((4, 4, 3), 255.0), "from 255 to 255"),
        (np.full((4, 4, 3), -0.5, np.float32), "from -0.5 to -0.5"),
        (np.array([[0.5, np.nan]]), "NaN"),
        (np.array([[0.5, np.inf]]), "to inf"),
    ],
)
def test_wrong_arrays_are_named_and_the_right_ones_too(array, got):
    with pytest.raises(InvalidImageError, match=f"{got}.*Expected height x width x 3"):
        encode_image(array)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr"])
def test_pillow_images_give_the_pixels_of_their_rgb(mode):
    image = Image.fromarray(RGB).convert(mode)
    sent = Image.open(io.BytesIO(encode_image(image))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(sent), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_without_blending():
    image = Image.fromarray(np.dstack([RGB, GREY]))
    np.testing.assert_array_equal(decoded(encode_image(image)), RGB)


def test_16_bit_grey_keeps_its_high_byte():
    image = Image.fromarray(GREY.astype(np.uint16) * 256 + 200)
    np.testing.assert_array_equal(decoded(encode_image(image)), GREY)


def test_the_exif_orientation_of_a_pillow_image_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = Image.open(io.BytesIO(saved(Image.fromarray(RGB), "PNG", exif=exif)))
    np.testing.assert_array_equal(decoded(encode_image(image)), np.rot90(RGB, -1))


def test_pillow_images_that_cannot_be_sent():
    with pytest.raises(InvalidImageError, match="mode F"):
        encode_image(Image.fromarray(RGB[:, :, 0].astype(np.float32)))
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    truncated = Image.open(io.BytesIO(saved(noise, "PNG")[:3000]))
    with pytest.raises(InvalidImageError, match="cannot be decoded"):
        encode_image(truncated)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidImageError, match=r"absent\.png.*No such file"):
        encode_image(tmp_path / "absent.png")
    with pytest.raises(InvalidImageError, match="directory"):
        encode_image(tmp_path)
    with pytest.raises(InvalidImageError, match="null"):
        encode_image("a\0b")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InvalidImageError, match="0 bytes"):
        encode_image(tmp_path / "empty.png")
    with pytest.raises(InvalidImageError, match="0 bytes"):
        encode_image(b"")


@pytest.mark.parametrize("thing", [None, 7, ["a.png"], object(), Path])
def test_other_types_are_named(thing):
    with pytest.raises(InvalidImageError, match=f"type {type(thing).__name__}"):
        encode_image(thing)
