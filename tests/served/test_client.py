"""The client against the real server: order, bounds, bad images."""

import io
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ma_agiqa_client import ClientError, DeadlineExceededError, InvalidImageError, Scorer

BATCH_TOLERANCE = 1e-3  # of MOS: an image in a batch against the same image alone, float32


@pytest.fixture
def scorer(server):
    with Scorer(server.grpc_url) as scorer:
        yield scorer


def picture(seed: int) -> np.ndarray:
    """A gradient under noise of a strength of its own; sizes and proportions vary."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(32, 400, 2)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    noise = rng.normal(0, rng.uniform(0, 80), (height, width, 3))
    return (ramp + noise + rng.uniform(0, 55, 3)).clip(0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def huge_png_header(side: int = 30_000) -> bytes:
    """A PNG of a few bytes that announces side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


BAD = {
    "truncated.jpg": encoded(picture(1), "JPEG", quality=90)[:-800],
    "text.png": b"This is no image.",
    "empty.png": b"",
    "huge.png": huge_png_header(),
}


def test_the_server_is_healthy_and_shows_its_card(scorer):
    assert scorer.health()
    card = scorer.model()
    assert card.name
    assert card.mos_min < card.mos_max
    assert {"srcc", "plcc", "krcc", "rmse"} <= set(card.metrics)
    assert re.fullmatch("[0-9a-f]{64}", card.checkpoint_sha256)


def test_a_score_is_complete(scorer):
    score = scorer.score(picture(3), maps=True)
    assert np.isfinite(score.mos)
    assert 0 <= score.normalized <= 1
    assert 0 <= score.percentile <= 100
    assert score.gate.semantic + score.gate.coherence + score.gate.quality == pytest.approx(1)
    assert score.patch_score.shape == score.patch_weight.shape
    assert score.patch_score.ndim == 2
    assert score.model == scorer.model().name


def test_the_order_of_60_mixed_images_is_kept(scorer):
    images = [picture(seed) for seed in range(60)]
    images = [image if index % 3 else encoded(image) for index, image in enumerate(images)]
    alone = [scorer.score(image).mos for image in images]
    together = [score.mos for score in scorer.score_many(images, max_in_flight=16)]
    assert together == pytest.approx(alone, abs=BATCH_TOLERANCE)
    assert np.ptp(alone) > 20 * BATCH_TOLERANCE  # or another order would pass too


def test_score_many_is_lazy_and_bounded(scorer):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield encoded(picture(taken))

    scores = scorer.score_many(endless(), max_in_flight=6)
    for received in range(1, 31):
        assert next(scores).error is None
        assert taken <= received + 6
    scores.close()


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_images_are_typed(scorer, name):
    with pytest.raises(InvalidImageError) as caught:
        scorer.score(BAD[name])
    message = str(caught.value)
    assert message.endswith(".")
    assert "Traceback" not in message
    assert ".py" not in message
    assert "ensemble" not in message


def test_bad_images_do_not_disturb_their_neighbors(scorer):
    good = encoded(picture(5))
    alone = scorer.score(good).mos
    images = [data for bad in BAD.values() for data in (good, bad)] * 6
    scores = list(scorer.score_many(images))
    assert [score.mos for score in scores[0::2]] == pytest.approx([alone] * 24, abs=BATCH_TOLERANCE)
    assert all(isinstance(score.error, InvalidImageError) for score in scores[1::2])


@pytest.mark.parametrize("seed", [11, 12])
def test_every_lossless_form_of_an_image_scores_the_same(scorer, tmp_path, seed):
    pixels = picture(seed)
    path = tmp_path / "image.bmp"
    path.write_bytes(encoded(pixels, "BMP"))
    forms = [
        encoded(pixels),
        encoded(pixels, "WEBP", lossless=True),
        path,
        pixels,
        pixels / 255,
        Image.fromarray(pixels),
    ]
    assert len({scorer.score(form).mos for form in forms}) == 1


def test_200_concurrent_requests_of_mixed_sizes_are_answered(scorer):
    images = [encoded(picture(seed), ("PNG", "JPEG")[seed % 2]) for seed in range(200)]
    with ThreadPoolExecutor(200) as pool:
        scores = list(pool.map(scorer.score, images))
    assert len(scores) == 200
    assert all(np.isfinite(score.mos) for score in scores)


def test_a_deadline_is_kept(scorer):
    with pytest.raises(DeadlineExceededError):
        scorer.score(picture(1), timeout_s=1e-4)
    assert scorer.score(picture(1)).error is None


def test_a_server_that_cannot_be_reached_is_a_client_error():
    with Scorer("127.0.0.1:1") as scorer, pytest.raises(ClientError):
        scorer.score(picture(1))
