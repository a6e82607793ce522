"""Views of many files: what runs where, what is ended, and what a request's error says."""

import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ma_agiqa.errors import CostlyImageError, ImageTooLargeError, InvalidImageError
from ma_agiqa.images import preparation
from ma_agiqa.images.isolated import DecodingProcess, LargePictureError
from ma_agiqa.images.limits import MAX_IMAGE_BYTES, MAX_PIXELS
from ma_agiqa.images.preparation import Order, OverloadError, Preparation, Together
from ma_agiqa.images.views import decode, quality_view, semantic_view
from support.hostile_files import png, tiff
from support.pictures import encoded, picture

SIDE = 64
GOOD = encoded(picture(1))
LARGE = png(2100, 2000)


def slow_tiff() -> bytes:
    """8x8 pixels, and a resolution of two million numbers, which Pillow reads one by one."""
    sizes = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    return tiff({**sizes, 282: (5, 2_000_000, 8)}, struct.pack("<II", 1, 3) * 2_000_000)


@pytest.fixture(scope="module")
def prepared():
    preparation = Preparation(SIDE, 2)
    yield preparation
    preparation.close()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "AVIF", "WEBP"])
def test_views_are_those_of_decoding_here(prepared, image_format):
    data = encoded(picture(2), image_format)
    views = prepared.submit(Order(data)).result()
    rgb = decode(data)
    np.testing.assert_array_equal(views.quality, quality_view(rgb))
    np.testing.assert_array_equal(views.semantic, semantic_view(rgb, SIDE))
    assert views.pixels == rgb.shape[0] * rgb.shape[1]


@pytest.mark.parametrize(
    "data", [LARGE, png(1, 3000), encoded(np.zeros((2100, 2000, 3), "u1"), "TIFF")]
)
def test_large_pictures_are_said_to_be_large(prepared, data):
    told = []
    views = prepared.submit(Order(data, lambda *facts: told.append(facts))).result()
    assert not views.quality.any()
    ((pixels, wait_s),) = told
    assert pixels > preparation.ORDINARY_PIXELS
    assert wait_s is not None


def test_a_file_that_costs_too_much_ends_its_process_and_no_more():
    process = DecodingProcess(SIDE, 2**22)
    good = encoded(picture(2), "TIFF")
    before = process.views(good)
    with pytest.raises(CostlyImageError, match="far more time than images of its size"):
        process.views(slow_tiff())
    np.testing.assert_array_equal(process.views(good).quality, before.quality)
    with pytest.raises(InvalidImageError, match="not an image"):
        process.views(b"text")
    with pytest.raises(LargePictureError, match="4410000 pixels"):
        process.views(png(2000, 2100))
    process.close()


def test_a_process_takes_a_large_file_after_a_small_one():
    process = DecodingProcess(SIDE, 2**22)
    small, large = encoded(picture(2), "TIFF"), encoded(picture(2), "TIFF") + bytes(60 * 2**20)
    np.testing.assert_array_equal(process.views(small).quality, process.views(large).quality)
    assert process.views(large).pixels
    process.close()


@pytest.mark.slow
@pytest.mark.parametrize("image_format", ["WEBP", "TIFF", "GIF", "JPEG"])
def test_the_largest_pictures_of_every_format_fit_into_their_budget(image_format):
    process = DecodingProcess(SIDE, MAX_PIXELS)
    options = {"compression": "tiff_lzw"} if image_format == "TIFF" else {}
    data = encoded(Image.new("RGB", (8192, 8192)), image_format, **options)
    assert process.views(data).pixels == MAX_PIXELS
    process.close()


def test_a_tiff_of_too_many_bytes_is_refused(prepared):
    with pytest.raises(ImageTooLargeError, match="at most 67,108,864 are accepted"):
        prepared.submit(Order(b"II*\0" + bytes(MAX_IMAGE_BYTES))).result()


def test_a_process_that_another_ends_is_no_fault_of_the_file():
    process = DecodingProcess(SIDE, 2**22)
    process.views(GOOD)
    process._child.kill()
    with pytest.raises(RuntimeError, match="status -9"):
        process.views(GOOD)
    assert process.views(GOOD).pixels
    process.close()


class FakeProcess:
    """A decoding process that waits until the test lets it answer."""

    running = 0
    most = 0
    go = threading.Event()
    lock = threading.Lock()

    def __init__(self, semantic_size: int, max_pixels: int):
        pass

    def views(self, data: bytes) -> preparation.Views:
        cls = type(self)
        with cls.lock:
            cls.running += 1
            cls.most = max(cls.most, cls.running)
        assert cls.go.wait(60)
        with cls.lock:
            cls.running -= 1
        return preparation.Views(np.zeros(3, "u1"), np.zeros(3, "u1"), 1, 0.1)

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch):
    class Fake(FakeProcess):
        go = threading.Event()

    monkeypatch.setattr(preparation, "DecodingProcess", Fake)
    return Fake


def test_the_largest_pictures_are_decoded_one_by_one_and_hold_up_no_small_one(fake):
    prepared = Preparation(SIDE, 2)
    file = png(8192, 8192)
    largest = [prepared.submit(Order(file)) for _ in range(3)]
    assert prepared.submit(Order(GOOD)).result(60).pixels
    prepared.wait_for_room()
    assert not any(views.done() for views in largest)
    fake.go.set()
    prepared.close()
    assert all(views.done() for views in largest)  # closing finished them
    assert fake.most == 1


def test_several_photographs_are_decoded_at_once(fake):
    prepared = Preparation(SIDE, 2)
    photographs = [prepared.submit(Order(png(4000, 3000))) for _ in range(2)]
    deadline = time.monotonic() + 60
    while fake.running < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    fake.go.set()
    prepared.close()
    assert all(views.result() for views in photographs)
    assert fake.most == 2


def test_too_many_bytes_of_large_pictures_are_refused(fake, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_WAITING_BYTES", 3 * len(LARGE))
    prepared = Preparation(SIDE, 1)
    views = [prepared.submit(Order(LARGE)) for _ in range(5)]
    with pytest.raises(OverloadError, match="large images are waiting"):
        views[-1].result(60)
    fake.go.set()
    prepared.close()
    assert [view.exception() is None for view in views] == [True] * 3 + [False] * 2


def test_large_pictures_wait_for_a_share_of_the_work_before_them(fake):
    lane = preparation._Lane("large", 5, SIDE, MAX_PIXELS, 4 * MAX_PIXELS)
    lane._s_per_pixel = 1 / MAX_PIXELS  # a second for each of the largest
    waits_s = []
    for _ in range(7):
        waits_s.append(lane.wait_s(MAX_PIXELS))
        lane.put(Order(b""), MAX_PIXELS, lambda process, order: process.views(order.data))
    fake.go.set()
    lane.close()
    assert waits_s == [0, 0, 0, 0, 4 / 4, 5 / 4, 6 / 4]


def test_pictures_that_are_given_up_say_nothing_about_the_time(fake):
    def gone() -> None:
        raise TimeoutError("the client has gone")

    lane = preparation._Lane("large", 1, SIDE, MAX_PIXELS)
    lane._s_per_pixel = 1.0
    lane.put(Order(b"", begin=gone), MAX_PIXELS, lambda process, order: process.views(order.data))
    lane.close()
    assert lane._s_per_pixel == 1.0


def together(prepared, files, begin=lambda: None, wait=lambda _: None):
    done = threading.Event()
    request = Together(files, begin, wait, lambda _: done.set())
    request.start(prepared)
    assert done.wait(60)
    return request


def test_a_request_gets_its_views_in_order(prepared):
    files = [encoded(picture(n), "TIFF" if n % 2 else "PNG") for n in range(6)]
    for file, views in zip(files, together(prepared, files).views(), strict=True):
        np.testing.assert_array_equal(views.quality, quality_view(decode(file)))


def test_an_error_names_every_bad_image(prepared):
    request = together(prepared, [GOOD, b"text", GOOD, b""])
    with pytest.raises(InvalidImageError) as caught:
        request.views()
    said = str(caught.value)
    assert (
        "2 of the 4 images of the request cannot be scored, so none was: image 2 (IMAGE[1]): "
        in said
    )
    assert "image 4 (IMAGE[3]): The image is empty" in said
    with pytest.raises(InvalidImageError, match=r"^The 4 bytes are not an image"):
        together(prepared, [b"text"]).views()
    with pytest.raises(InvalidImageError, match=r"8 of the 9 .*; \.\.\.\. Send the others"):
        together(prepared, [GOOD] + [b"text"] * 8).views()


def test_after_a_costly_image_the_rest_of_the_request_is_not_decoded(prepared):
    begun = []
    files = [slow_tiff(), *[encoded(picture(2), "TIFF")] * 3]
    request = together(prepared, files, lambda: begun.append(1))
    with pytest.raises(CostlyImageError, match=r"1 of the 4 images .*image 1 \(IMAGE\[0\]\)"):
        request.views()
    assert len(begun) == 4 + 1  # all were looked at, one was decoded


def test_a_request_of_too_many_pixels_is_refused(prepared, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_REQUEST_PIXELS", 3 * 2100 * 2000)
    assert together(prepared, [LARGE] * 2).views()
    with pytest.raises(ImageTooLargeError, match="Send them in several requests"):
        together(prepared, [LARGE] * 4).views()


def test_what_is_given_up_is_not_decoded(prepared):
    calls = []

    def gone() -> None:
        calls.append(1)
        raise TimeoutError("the client has gone")

    with pytest.raises(TimeoutError, match="has gone"):
        together(prepared, [GOOD] * 20, gone).views()
    assert len(calls) < 20

    def no_time(wait_s: float) -> None:
        raise TimeoutError("too late")

    with pytest.raises(TimeoutError, match="too late"):
        together(prepared, [LARGE], wait=no_time).views()
