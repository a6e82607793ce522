"""What the client sends for each kind of image: every case is decoded again with Pillow."""

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa_client import InvalidImageError
from ma_agiqa_client._wire import images
from ma_agiqa_client._wire.images import Encoder, check_sources
from support.pictures import decoded_ppm, encoded

encode_image = Encoder().encode
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 9), dtype=np.uint8)


def test_bytes_and_files_are_unchanged(tmp_path):
    data = b"\x00not even an image\x00\x00"
    path = tmp_path / "any name"
    path.write_bytes(data)
    (tmp_path / "link").symlink_to("any name")
    for image in (data, bytearray(data), memoryview(data), path, str(path), tmp_path / "link"):
        assert encode_image(image) == data


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr"])
def test_pillow_images_give_the_pixels_of_their_rgb(mode):
    image = Image.fromarray(RGB).convert(mode)
    sent = Image.open(io.BytesIO(encode_image(image))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(sent), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_without_blending():
    image = Image.fromarray(np.dstack([RGB, GRAY]))
    np.testing.assert_array_equal(decoded_ppm(encode_image(image)), RGB)


def test_a_pillow_image_that_cannot_be_decoded_ppm():
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    truncated = Image.open(io.BytesIO(encoded(noise, "PNG")[:3000]))
    with pytest.raises(InvalidImageError, match="cannot be decoded"):
        encode_image(truncated)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidImageError, match=r"absent\.png.*No such file"):
        encode_image(tmp_path / "absent.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InvalidImageError, match="directory"):
        encode_image(tmp_path)
    with pytest.raises(InvalidImageError, match="Not a directory"):
        encode_image(tmp_path / "empty.png" / "a.png")
    with pytest.raises(InvalidImageError, match="null"):
        encode_image("a\0b")
    with pytest.raises(InvalidImageError, match="0 bytes"):
        encode_image(tmp_path / "empty.png")
    with pytest.raises(InvalidImageError, match="0 bytes"):
        encode_image(b"")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    """Pipes would be waited for, and devices read without end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.png"))
        for name in ("pipe.png", "zeros.png", "socket.png"):
            with pytest.raises(InvalidImageError, match=rf"{name}.*a pipe, a socket or a device"):
                encode_image(tmp_path / name)


@pytest.mark.parametrize("thing", [None, 7, ["a.png"], object(), Path])
def test_other_types_are_named(thing):
    with pytest.raises(InvalidImageError, match=f"type {type(thing).__name__}"):
        encode_image(thing)


def test_file_objects_are_read_from_their_position(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"skipped and kept")
    with path.open("rb") as file:
        file.seek(12)
        assert encode_image(file) == b"kept"
    with pytest.raises(InvalidImageError, match="closed file"):
        encode_image(file)
    with path.open() as file, pytest.raises(InvalidImageError, match="str; expected bytes"):
        encode_image(file)


def test_web_addresses_are_refused_unless_asked_for():
    with pytest.raises(InvalidImageError, match="fetch_urls=True"):
        encode_image("https://example.org/cat.png")


@pytest.mark.parametrize("one", ["a.png", Path("a.png"), b"a", io.BytesIO(b"a"), RGB, GRAY, 7])
def test_one_image_is_not_several(one):
    with pytest.raises(TypeError, match="expected"):
        check_sources(one)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "PPM", "GIF", "TIFF"])
def test_every_served_format_is_reduced(name):
    data = encoded(Image.new("RGB", (600, 300)), name)
    assert decoded_ppm(Encoder(max_side=60).encode(data)).shape == (30, 60, 3)


def test_large_images_are_reduced_on_request_only():
    large = Image.fromarray(RNG.integers(0, 256, (300, 600, 3), dtype=np.uint8))
    data = encoded(large, "PNG")
    assert encode_image(data) == data
    assert decoded_ppm(Encoder(max_side=60).encode(data)).shape == (30, 60, 3)
    assert decoded_ppm(Encoder(max_side=60).encode(large)).shape == (30, 60, 3)
    assert decoded_ppm(Encoder(max_side=60).encode(np.asarray(large))).shape == (30, 60, 3)
    assert Encoder(max_side=600).encode(data) == data
    assert Encoder(max_side=60).encode(b"not an image") == b"not an image"  # the server says why
    with pytest.raises(ValueError, match="max_side"):
        Encoder(max_side=0)


@pytest.mark.parametrize("max_side", [20, 100])
def test_what_is_too_large_even_after_it_is_reduced(monkeypatch, max_side):
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 500)
    large = Image.fromarray(RNG.integers(0, 256, (30, 30, 3), dtype=np.uint8))
    with pytest.raises(InvalidImageError, match="more than 500 bytes"):
        Encoder(max_side=max_side).encode(large)
    assert len(Encoder(max_side=10).encode(large)) < 500
