"""Decoding and the two views, against the components the official pipeline is made of."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ma_agiqa.errors import ImageError, ImageTooLargeError, InvalidImageError
from ma_agiqa.images.limits import MAX_IMAGE_BYTES, MAX_IMAGE_SIDE
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.embedder import CLIP_MEAN, CLIP_STD
from support.hostile_files import png
from support.pictures import encoded

SIZES = [(300, 300), (257, 400), (513, 130), (31, 64), (448, 448), (1000, 700)]


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth colors with texture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    noise = rng.integers(-20, 20, smooth.shape)
    return (smooth + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("image_format", "options"), [("JPEG", {"quality": 90}), ("PNG", {})])
def test_quality_view_equals_opencv_from_file_to_view(size, image_format, options):
    data = encoded(picture(*size), image_format, **options)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    bgr = cv2.resize(bgr, (224, 224), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(quality_view(decode(data)), cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [448, 224])
def test_semantic_view_equals_clip_processor_on_padded_square(size, side):
    data = encoded(picture(*size), "PNG")
    image = Image.open(io.BytesIO(data)).convert("RGB")
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), tuple(int(c * 255) for c in CLIP_MEAN))
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
    )
    expected = processor(square, return_tensors="np")["pixel_values"][0]
    view = semantic_view(decode(data), side).astype(np.float32)
    normalized = (view / 255 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
    np.testing.assert_allclose(normalized.transpose(2, 0, 1), expected, atol=1e-6)


@pytest.mark.parametrize(
    "size", [*SIZES, (2, 300), (300, 2), (449, 447), (448, 100), (1023, 64), (1, 1), (1280, 720)]
)
@pytest.mark.parametrize("side", [448, 224, 31])
def test_semantic_view_equals_resizing_the_padded_square(size, side):
    rgb = picture(*size)
    longest = max(size)
    square = np.full((longest, longest, 3), (122, 116, 104), np.uint8)
    top, left = (longest - size[1]) // 2, (longest - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = rgb
    expected = Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(semantic_view(rgb, side), np.array(expected))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_lossless_formats_decode_to_the_same_pixels(image_format):
    rgb = picture(70, 50)
    options = {"lossless": True} if image_format == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(rgb, image_format, **options)), rgb)


def test_first_frame_of_animations_and_multipage_files():
    first, second = (Image.fromarray(picture(40, 30, seed)).quantize() for seed in (1, 2))
    for image_format in ("GIF", "TIFF"):
        data = encoded(first, image_format, save_all=True, append_images=[second])
        np.testing.assert_array_equal(decode(data), np.array(first.convert("RGB")))


def test_gray_palette_and_alpha_become_rgb():
    rgb = picture(40, 30)
    gray = Image.fromarray(rgb).convert("L")
    np.testing.assert_array_equal(decode(encoded(gray, "PNG")), np.array(gray.convert("RGB")))
    alpha = Image.fromarray(rgb)
    alpha.putalpha(Image.fromarray(rgb[..., 0]))
    np.testing.assert_array_equal(decode(encoded(alpha, "PNG")), rgb)
    palette = Image.fromarray(rgb).quantize()
    data = encoded(palette, "PNG", transparency=3)
    np.testing.assert_array_equal(decode(data), np.array(palette.convert("RGB")))


def test_sixteen_bits_keep_the_high_byte_as_opencv_does():
    values = np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16)
    for extension in (".png", ".tiff", ".pgm"):
        data = cv2.imencode(extension, values)[1].tobytes()
        np.testing.assert_array_equal(decode(data)[..., 1], (values >> 8).astype(np.uint8))
    color = np.random.default_rng(1).integers(0, 65536, (30, 40, 3), dtype=np.uint16)
    data = cv2.imencode(".png", color)[1].tobytes()
    np.testing.assert_array_equal(decode(data), (color[..., ::-1] >> 8).astype(np.uint8))


def test_cmyk_jpeg():
    image = Image.fromarray(picture(64, 64)).convert("CMYK")
    data = encoded(image, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as reference:
        np.testing.assert_array_equal(decode(data), np.array(reference.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_equals_opencv(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(64, 48), "JPEG", exif=exif, quality=95)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode(data), bgr[..., ::-1])


def test_damaged_exif_leaves_the_pixels_alone():
    rgb = Image.fromarray(picture(64, 48))
    data = encoded(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)
    np.testing.assert_array_equal(decode(data), decode(encoded(rgb, "JPEG", quality=95)))


def test_unreadable_bytes_are_named():
    whole = encoded(picture(200, 200), "JPEG")
    with pytest.raises(InvalidImageError, match="0 bytes"):
        decode(b"")
    with pytest.raises(InvalidImageError, match="not an image"):
        decode(b"only text")
    with pytest.raises(InvalidImageError, match="JPEG image is damaged or incomplete"):
        decode(whole[: len(whole) // 2])


def test_formats_outside_the_list_are_refused():
    with pytest.raises(InvalidImageError, match="not an image"):
        decode(encoded(picture(20, 20), "PCX"))


@pytest.mark.parametrize("size", [(30000, 30000), (MAX_IMAGE_SIDE + 1, 10), (10, 2**30)])
def test_decompression_bombs_are_refused_by_their_header(size):
    with pytest.raises(ImageTooLargeError, match="Scale it down"):
        decode(png(*size, pixels=b"\0"))


def test_too_many_bytes_are_refused_unread():
    with pytest.raises(ImageTooLargeError, match="at most"):
        decode(bytes(MAX_IMAGE_BYTES + 1))


def test_errors_hold_nothing_of_the_machine():
    for data in (b"", b"text", png(30000, 30000, pixels=b"\0"), png(50, 50, pixels=b"\0")):
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert "/" not in str(caught.value)
        assert "0x" not in str(caught.value)
