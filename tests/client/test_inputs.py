"""Every kind of image by every method: it may be changed or closed once the next one is asked for.

The transport answers with the mean of the decoded pixels, so an image that is read too late gets
another image's score.
"""

import asyncio
import io
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa_client import AsyncScorer, InvalidImageError, Scorer
from ma_agiqa_client.rewards import compute_score, ma_agiqa_score
from support.blocking import Blocking
from support.example_card import PARAMETERS
from support.pictures import encoded
from support.scripted_server import ensemble_config

LEVELS = list(range(0, 240, 20))
CARD = ensemble_config(PARAMETERS | {"mos_max": "255"})


class Mean:
    """A transport whose score is the mean of the pixels."""

    def infer(self, request, timeout_s):
        answer = Mean()
        with Image.open(io.BytesIO(request.image)) as image:
            answer.mos = float(np.asarray(image.convert("RGB"), np.float64).mean())
        return answer

    def as_numpy(self, name):
        return {"SCORE": np.array([[self.mos]]), "GATE": np.ones((1, 3))}[name]

    def result(self):
        return self

    def model_config(self, timeout_s):
        return CARD

    def close(self):
        pass


class AsyncMean(Mean):
    async def infer(self, request, timeout_s):
        return super().infer(request, timeout_s)

    async def model_config(self, timeout_s):
        return CARD

    async def close(self):
        pass


def gray(level: int) -> Image.Image:
    return Image.new("RGB", (40, 30), (level,) * 3)


def bitmap(level: int) -> bytes:
    return encoded(gray(level), "BMP")


def filled_array(folder):
    array = np.zeros((30, 40, 3), np.uint8)
    for level in LEVELS:
        array[:] = level
        yield array


def filled_tensor(folder):
    tensor = torch.zeros(3, 30, 40)
    for level in LEVELS:
        yield tensor.fill_(level / 255)


def filled_bytearray(folder):
    data = bytearray()
    for level in LEVELS:
        data[:] = bitmap(level)
        yield data


def released_memoryview(folder):
    data = bytearray(bitmap(0))
    for level in LEVELS:
        data[:] = bitmap(level)
        with memoryview(data) as view:
            yield view


def refilled_file(folder):
    file = io.BytesIO()
    for level in LEVELS:
        file.seek(0)
        file.write(bitmap(level))
        file.seek(0)
        yield file


def closed_file(folder):
    for level in LEVELS:
        (folder / "image").write_bytes(bitmap(level))
        with (folder / "image").open("rb") as file:
            yield file


def overwritten_path(folder):
    for level in LEVELS:
        (folder / "image.png").write_bytes(bitmap(level))
        yield folder / "image.png"


def redrawn_canvas(folder):
    canvas = gray(0)
    for level in LEVELS:
        canvas.paste((level,) * 3, (0, 0, *canvas.size))
        yield canvas


def closed_picture(folder):
    for level in LEVELS:
        with Image.open(io.BytesIO(encoded(gray(level), "PNG"))) as image:
            yield image


def mapped_picture(folder):
    """Pillow maps a bitmap into memory: its pixels change along with the file."""
    for level in LEVELS:
        gray(level).convert("L").save(folder / "image.bmp")
        yield Image.open(folder / "image.bmp")


def frames(folder):
    frames = [gray(level) for level in LEVELS]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2)
    image = Image.open(io.BytesIO(data))
    for number in range(len(LEVELS)):
        image.seek(number)
        yield image


KINDS = [
    *(filled_array, filled_tensor, filled_bytearray, released_memoryview, refilled_file),
    *(closed_file, overwritten_path, redrawn_canvas, closed_picture, mapped_picture, frames),
]


def score(scorer, images):
    return [scorer.score(image) for image in images]


def score_many(scorer, images):
    return list(scorer.score_many(images))


def rank(scorer, images):
    return sorted(scorer.rank(images), key=lambda one: one.index)


def reward(scorer, images):
    return ma_agiqa_score(scorer=scorer)(images, None, None)[1]["mos"]


def explain(scorer, images):
    """The server answers with the brightness of what it was sent."""
    scorer._can_explain = True
    scorer._answers = lambda clock: type("", (), {"parts": lambda _, ask, data: iter([data])})()
    sent = [scorer.explain(image) for image in images]
    return [scorer.score(next(parts)) for parts in sent]


def score_later(scorer, images):
    """All coroutines are made before the first is awaited."""

    async def gather(calls):
        return await asyncio.gather(*calls)

    return scorer._wait(gather([scorer._scorer.score(image) for image in images]))


def score_many_of_async(scorer, images):
    async def each():
        for image in images:
            await asyncio.sleep(0)
            yield image

    return list(scorer.score_many(each()))


METHODS = [
    *itertools.product((Scorer, Blocking), (score, score_many, rank)),
    *((Scorer, reward), (Scorer, explain)),
    *((Blocking, score_later), (Blocking, score_many_of_async)),
]
PAIRS = [
    (kind, method, images)
    for (kind, method), images in itertools.product(METHODS, KINDS)
    if not (method is score_later and images is overwritten_path)  # read when awaited
]


def scores(kind, method, images):
    with kind(transport=Mean() if kind is Scorer else AsyncMean()) as scorer:
        return [float(getattr(one, "mos", one)) for one in method(scorer, images)]


@pytest.mark.parametrize(("kind", "method", "images"), PAIRS)
def test_every_image_gets_its_own_score(kind, method, images, tmp_path):
    assert scores(kind, method, images(tmp_path)) == pytest.approx(LEVELS, abs=0.51)  # of floats


@pytest.mark.parametrize("images", [filled_array, redrawn_canvas])
def test_every_image_gets_its_own_score_from_a_server(kind, images, stand_in, tmp_path):
    """Through a real Triton, whose scores are the brightness of the images."""
    with kind(stand_in.grpc_url) as scorer:
        expected = [scorer.score(gray(level)).mos for level in LEVELS]
        assert expected == sorted(set(expected))
        assert [score.mos for score in scorer.score_many(images(tmp_path))] == expected


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "WEBP", "GIF"])
def test_one_undecoded_picture_many_times(name):
    def undecoded():
        return Image.open(io.BytesIO(encoded(gray(60), name)))

    expected = pytest.approx([60] * 16, abs=1.5)
    for kind, method in METHODS:
        assert scores(kind, method, [undecoded()] * 16) == expected
    with Scorer(transport=Mean()) as scorer, ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert [one.mos for one in pool.map(scorer.score, [undecoded()] * 16)] == expected


def test_verl_omni_copies_the_image_before_it_waits(monkeypatch):
    from ma_agiqa_client.rewards import _verl_omni

    scorer = AsyncScorer(transport=AsyncMean())
    monkeypatch.setattr(_verl_omni, "_shared_scorer", lambda urls: scorer)
    array = np.zeros((3, 8, 8), np.uint8)

    async def rollout():
        tasks = []
        for level in LEVELS:
            array[:] = level
            tasks.append(asyncio.create_task(compute_score(array, url="a:1")))
            await asyncio.sleep(0)  # the task starts
        return [(await task)["ma_agiqa_mos"] for task in tasks]

    assert asyncio.run(rollout()) == LEVELS


def test_a_picture_that_was_closed_before_is_an_error_of_its_own(scorer, scripted, tmp_path):
    gray(9).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    first, second = scorer.score_many([b"9", closed])
    assert first.mos == 9
    assert isinstance(second.error, InvalidImageError)


def test_the_picture_of_the_caller_is_not_changed():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(gray(9), "PNG", exif=exif)))
    scores(Scorer, score_many, [image])
    assert image.size == (40, 30)
    assert image.getexif()[0x0112] == 6


def test_files_of_a_list_are_read_on_several_threads(kind, tmp_path, monkeypatch):
    """Those of a generator are not: it may overwrite a file once the next one is asked for."""
    from threading import Barrier

    from ma_agiqa_client._wire import images

    read, together = images.read_file, Barrier(4, timeout=10)

    def read_together(*arguments):
        together.wait()  # breaks unless four threads read
        return read(*arguments)

    monkeypatch.setattr(images, "read_file", read_together)
    paths = [tmp_path / f"{level}.bmp" for level in LEVELS]
    for path, level in zip(paths, LEVELS, strict=True):
        path.write_bytes(bitmap(level))
    assert scores(kind, score_many, paths) == LEVELS


@pytest.mark.parametrize("kind", [Scorer, AsyncScorer])
def test_a_scorer_can_be_pickled(kind):
    again = pickle.loads(pickle.dumps(kind("a:1", timeout_s=7, traffic_class="bulk")))
    assert (type(again), again._timeout_s, again._core._traffic_class) == (kind, 7, "bulk")


def test_each_event_loop_has_its_own_connection(scripted):
    scorer = AsyncScorer(scripted.url, timeout_s=10)

    async def once():
        try:
            return (await scorer.score(b"60")).model
        finally:
            await scorer._transports[0].close()

    assert [asyncio.run(once()) for _ in range(2)] == ["tiny", "tiny"]
