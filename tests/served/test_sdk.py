"""The SDK against a real Triton: every kind of input, order, bad images, the wrong model."""

import io
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa_client import (
    InvalidImageError,
    Scorer,
    WrongModelError,
)
from support.hostile_files import png
from support.pictures import encoded, picture
from support.servers import serving

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.jpg"))
BAD = {
    "truncated.jpg": encoded(picture(1), "JPEG", quality=90)[:-800],
    "text.png": b"This is no image.",
    "empty.png": b"",
    "huge.png": png(30_000, 1),
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
    assert score.patch_score.shape == score.patch_weight.shape == (7, 7)
    assert score.model == scorer.model().name


def forms(pixels: np.ndarray, folder: Path) -> dict[str, object]:
    """The same pixels in every form that is taken."""
    chw = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    path = folder / "image.png"
    Image.fromarray(pixels).save(path)
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "file object": io.BytesIO(path.read_bytes()),
        "bitmap": encoded(pixels, "BMP"),
        "lossless WebP": encoded(pixels, "WEBP", lossless=True),
        "Pillow": Image.fromarray(pixels),
        "HWC uint8": pixels,
        "CHW uint8": chw,
        "HWC float64": pixels / 255,
        "HWC float32": (pixels / 255).astype(np.float32),
        "CHW float16": (chw / 255).astype(np.float16),
        "not contiguous": np.asfortranarray(pixels),
        "tensor uint8": torch.from_numpy(chw),
        "tensor float32": torch.from_numpy(chw).float() / 255,
        "tensor HWC": torch.from_numpy(pixels),
        "tensor with gradient": (torch.from_numpy(chw).double() / 255).requires_grad_(),
    }


def test_every_form_of_an_image_gets_the_same_score(scorer, tmp_path):
    given = forms(picture(1), tmp_path)
    scores = {name: scorer.score(form).mos for name, form in given.items()}
    assert set(scores.values()) == {scores["bytes"]}, scores


def test_bad_images_do_not_disturb_their_neighbors(scorer):
    good = encoded(picture(5))
    alone = scorer.score(good).mos
    images = [data for bad in BAD.values() for data in (good, bad)] * 6
    scores = list(scorer.score_many(images))
    assert [score.mos for score in scores[0::2]] == [alone] * 24
    errors = [score.error for score in scores[1::2]]
    assert {type(error) for error in errors} == {InvalidImageError}
    for message in map(str, errors):
        assert message.endswith(".")
        assert not re.search(r"Traceback|\.py|ensemble", message), message


def test_compressed_requests_score_the_same(stand_in, scorer):
    pixels = picture(5)
    for algorithm in ("gzip", "deflate"):
        with Scorer(stand_in.grpc_url, compression=algorithm) as compressing:
            assert compressing.score(pixels).mos == scorer.score(pixels).mos


@pytest.mark.parametrize("behind_s", [3600, -3600])
def test_a_clock_of_this_machine_that_is_wrong_costs_no_score(scorer, monkeypatch, behind_s):
    scorer.model()
    now = time.time_ns
    wrong = "ma_agiqa_client._core.plan.time.time_ns"
    monkeypatch.setattr(wrong, lambda: now() - behind_s * 10**9)
    assert scorer.score(EXAMPLES[0], timeout_s=30).error is None
    assert all(score.error is None for score in scorer.score_many(EXAMPLES, timeout_s=30))


def test_a_server_without_the_model(tmp_path):
    with serving(tmp_path, self_test=False) as other, Scorer(other.grpc_url) as scorer:
        assert not scorer.health()
        with pytest.raises(WrongModelError, match="does not serve the model `ma_agiqa`"):
            scorer.score(EXAMPLES[0])
