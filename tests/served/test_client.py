"""The client against the real server: order, bounds, bad images, the command line."""

import io
import json
import re
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa_client import ClientError, DeadlineExceededError, InvalidImageError, Scorer
from ma_agiqa_client._embedded import DEFAULT_URL, listens

SCRIPT = Path(__file__).resolve().parents[2] / "client" / "score.py"
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


@pytest.fixture
def folder(tmp_path):
    """Good images in three formats and a subfolder, between bad ones."""
    (tmp_path / "sub").mkdir()
    for seed, name in enumerate(["a.png", "b.jpg", "sub/c.webp", "sub/d.PNG", "z.bmp"]):
        Image.fromarray(picture(seed)).save(tmp_path / name)
    for name, data in BAD.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def command_line(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


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


def test_bad_images_do_not_disturb_their_neighbours(scorer):
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


def test_the_command_line_scores_the_good_and_lists_the_bad(server, folder):
    done = command_line(folder, "--url", server.grpc_url, "--json")
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    assert all(
        list(row) == ["image", "mos", "normalized", "percentile", "gate", "model", "error"]
        for row in rows
    )
    scored = [row for row in rows if row["error"] is None]
    assert {Path(row["image"]).name for row in scored} == {
        "a.png", "b.jpg", "c.webp", "d.PNG", "z.bmp"
    }  # fmt: skip
    assert [row["mos"] for row in scored] == sorted((row["mos"] for row in scored), reverse=True)
    assert all(set(row["gate"]) == {"semantic", "coherence", "quality"} for row in scored)
    failed = [row for row in rows if row["error"]]
    assert {Path(row["image"]).name for row in failed} == set(BAD)
    assert all(row["mos"] is row["gate"] is None for row in failed)
    assert all(Path(row["image"]).name in done.stderr for row in failed)


def test_the_table_names_the_model(server, folder, scorer):
    done = command_line(folder / "sub", folder / "a.png", "--url", server.grpc_url)
    assert done.returncode == 0
    card = scorer.model()
    assert f"Model: {card.name} (preset {card.preset}" in done.stdout
    assert card.note in done.stdout
    assert done.stdout.count("%") == 3 * 4


@pytest.mark.slow
def test_without_an_address_a_server_is_started_and_stopped(folder):
    if listens(DEFAULT_URL):
        pytest.skip(f"something listens at {DEFAULT_URL}, so no server would be started")
    done = command_line(folder / "sub", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 2
    url = re.search(r"runs at (\S+) for this run and serves", done.stderr)
    assert url
    assert not listens(url[1])
