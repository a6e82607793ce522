"""Every kind of image by every method: it may be changed or closed once the next one is asked for.

The transport answers with the mean of the decoded pixels, so an image that is read too late gets
another image's score.
"""

import asyncio
import io
import itertools
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa_client import AsyncScorer, InvalidImageError, Scorer
from ma_agiqa_client.rewards import compute_score, ma_agiqa_score
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


def filled_floats(folder):
    array = np.zeros((3, 30, 40), np.float32)
    for level in LEVELS:
        array[:] = level / 255
        yield array


def filled_tensor(folder):
    tensor = torch.zeros(3, 30, 40)
    for level in LEVELS:
        yield tensor.fill_(level / 255)


def views_of_a_batch(folder):
    batch = torch.zeros(2, 3, 30, 40, dtype=torch.uint8)
    for level in LEVELS:
        batch[1].fill_(level)
        yield batch[1]


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


def deleted_path(folder):
    for level in LEVELS:
        path = folder / f"{level}.png"
        path.write_bytes(bitmap(level))
        yield str(path)
        path.unlink()


def redrawn_canvas(folder):
    canvas = gray(0)
    for level in LEVELS:
        canvas.paste((level,) * 3, (0, 0, *canvas.size))
        yield canvas


def closed_picture(folder):
    for level in LEVELS:
        with Image.open(io.BytesIO(encoded(gray(level), "PNG"))) as image:
            yield image


def closed_after_load(folder):
    for level in LEVELS:
        with gray(level) as image:
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
    *(filled_array, filled_floats, filled_tensor, views_of_a_batch, filled_bytearray),
    *(released_memoryview, refilled_file, closed_file, overwritten_path, deleted_path),
    *(redrawn_canvas, closed_picture, closed_after_load, mapped_picture, frames),
]


def run(call):
    """Carry out a coroutine function with an asynchronous scorer."""

    async def main():
        async with AsyncScorer(transport=AsyncMean()) as scorer:
            return await call(scorer)

    return asyncio.run(main())


def score(images):
    with Scorer(transport=Mean()) as scorer:
        return [scorer.score(image) for image in images]


def score_many(images):
    with Scorer(transport=Mean()) as scorer:
        return list(scorer.score_many(images))


def rank(images):
    with Scorer(transport=Mean()) as scorer:
        return sorted(scorer.rank(images), key=lambda one: one.index)


def reward(images):
    with Scorer(transport=Mean()) as scorer:
        return ma_agiqa_score(scorer=scorer)(images, None, None)[1]["mos"]


def explain(images):
    """The server answers with the brightness of what it was sent."""
    with Scorer(transport=Mean()) as scorer:
        sent = []
        scorer._can_explain = True
        scorer._answers = lambda clock: type("", (), {"parts": lambda _, ask, data: iter([data])})()
        for image in images:
            sent.append(scorer.explain(image))
        return [scorer.score(next(parts)) for parts in sent]


def async_score(images):
    async def call(scorer):
        return [await scorer.score(image) for image in images]

    return run(call)


def async_score_later(images):
    async def call(scorer):
        return await asyncio.gather(*[scorer.score(image) for image in images])

    return run(call)


def async_score_many(images):
    async def call(scorer):
        return [outcome async for outcome in scorer.score_many(images)]

    return run(call)


def async_score_many_of_async(images):
    async def each():
        for image in images:
            await asyncio.sleep(0)
            yield image

    return async_score_many(each())


def async_rank(images):
    async def call(scorer):
        return sorted(await scorer.rank(images), key=lambda one: one.index)

    return run(call)


METHODS = [
    *(score, score_many, rank, reward, explain, async_score, async_score_later),
    *(async_score_many, async_score_many_of_async, async_rank),
]


READ_WHEN_AWAITED = {(async_score_later, overwritten_path), (async_score_later, deleted_path)}
PAIRS = [pair for pair in itertools.product(METHODS, KINDS) if pair not in READ_WHEN_AWAITED]


@pytest.mark.parametrize(("method", "kind"), PAIRS)
def test_every_image_gets_its_own_score(method, kind, tmp_path):
    given = [float(getattr(one, "mos", one)) for one in method(kind(tmp_path))]
    assert given == pytest.approx(LEVELS, abs=0.51)  # arrays of floats are rounded


@pytest.mark.parametrize("kind", [filled_array, redrawn_canvas])
def test_every_image_gets_its_own_score_from_a_server(stand_in, kind, tmp_path):
    """Through a real Triton, whose scores are the brightness of the images."""

    async def with_async(images):
        async with AsyncScorer(stand_in.grpc_url) as scorer:
            return [outcome.mos async for outcome in scorer.score_many(images)]

    with Scorer(stand_in.grpc_url) as scorer:
        expected = [scorer.score(gray(level)).mos for level in LEVELS]
        assert expected == sorted(set(expected))
        assert [score.mos for score in scorer.score_many(kind(tmp_path))] == expected
    assert asyncio.run(with_async(kind(tmp_path))) == expected


SAME = {
    "array": lambda: np.full((30, 40, 3), 60, np.uint8),
    "tensor": lambda: torch.full((3, 30, 40), 60 / 255),
    "bytes": lambda: bitmap(60),
    "canvas": lambda: gray(60),
    **{
        f"lazy {name}": lambda name=name: Image.open(io.BytesIO(encoded(gray(60), name)))
        for name in ("PNG", "JPEG", "TIFF", "WEBP", "GIF")
    },
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("method", METHODS)
def test_the_same_image_many_times(method, kind):
    outcomes = method([SAME[kind]()] * 8)
    assert [float(getattr(one, "mos", one)) for one in outcomes] == pytest.approx([60] * 8, abs=1.5)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_one_undecoded_picture_on_many_threads(name):
    with Scorer(transport=Mean()) as scorer, ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            image = Image.open(io.BytesIO(encoded(gray(60), name)))
            scores = list(pool.map(scorer.score, [image] * 16))
            assert [score.mos for score in scores] == pytest.approx([60] * 16, abs=1.5)


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


def test_a_picture_that_was_closed_before_is_an_error_of_its_own(tmp_path):
    gray(9).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    for outcomes in (score_many([gray(9), closed]), async_score_many([gray(9), closed])):
        assert outcomes[0].mos == 9
        assert isinstance(outcomes[1].error, InvalidImageError)


def test_the_picture_of_the_caller_is_not_changed():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(gray(9), "PNG", exif=exif)))
    score_many([image])
    assert image.size == (40, 30)
    assert image.getexif()[0x0112] == 6


def test_files_of_a_list_are_read_on_several_threads(tmp_path, monkeypatch):
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
    for method in (score_many, async_score_many):
        assert [one.mos for one in method(paths)] == LEVELS


@pytest.mark.parametrize(
    "tag", [{0x0102: "text"}, {0x011A: "text"}, {0x0128: "text"}, {0x011A: (-1, 0)}, {0x0100: -5}]
)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_odd_metadata_does_not_matter(tag, name):
    """Of the metadata only the orientation is read; Pillow fails to write the rest again."""
    image = gray(60)
    exif = image.getexif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(encoded(image, name, exif=exif))) as opened:
        opened.load()
        opened.getexif().update(tag)
        assert score([opened])[0].mos == pytest.approx(60, abs=1.5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_device_is_an_error_at_once(tmp_path):
    os.mkfifo(tmp_path / "p.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for path in ("p.png", "zero.png"):
        (outcome,) = score_many([tmp_path / path])
        assert "a pipe, a socket or a device" in str(outcome.error)


@pytest.mark.parametrize("kind", [Scorer, AsyncScorer])
def test_a_scorer_can_be_pickled(kind):
    again = pickle.loads(pickle.dumps(kind("a:1", timeout_s=7, max_side=99)))
    assert (type(again), again._timeout_s, again._encoder.max_side) == (kind, 7, 99)


def test_each_event_loop_has_its_own_connection(scripted):
    scorer = AsyncScorer(scripted.url, timeout_s=10)

    async def once():
        try:
            return (await scorer.score(b"60")).model
        finally:
            await scorer._transports[0].close()

    assert [asyncio.run(once()) for _ in range(2)] == ["tiny", "tiny"]
