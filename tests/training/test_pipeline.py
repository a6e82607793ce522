"""`ImageScorer`: bytes to score in one call, and gradients with respect to pixels."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ma_agiqa import ImageScorer, load_scorer
from ma_agiqa.checkpoints import save_checkpoint
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity
from ma_agiqa.errors import ConfigError, InvalidImageError
from ma_agiqa.images.tensor_views import quality_pixels, semantic_pixels
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, build_embedder, demo_mplug_owl2
from support.tiny_scorer import CARD, make_scorer

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "training" / "checkpoints" / "demo"
FILES = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.jpg"))]


@pytest.fixture(scope="module")
def scorer():
    return ImageScorer.load(DEMO)


@pytest.fixture(scope="module")
def scores(scorer):
    return scorer(FILES)


def test_it_computes_what_the_served_steps_compute(scores):
    """The same bits as decoding, views, embedder and scorer called one by one."""
    pixels = [decode(file) for file in FILES]
    quality = torch.from_numpy(np.stack([quality_view(rgb) for rgb in pixels]))
    embedder = build_embedder(DEMO_EMBEDDER)
    views = [semantic_view(rgb, embedder.image_size) for rgb in pixels]
    network, _ = load_scorer(DEMO)
    embeddings = embedder(torch.from_numpy(np.stack(views)))
    with torch.inference_mode():
        expected = network(quality, embeddings["semantic"], embeddings["coherence"])
    for given, wanted in zip(scores, expected, strict=True):
        assert given.dtype == torch.float32
        assert torch.equal(given, wanted)
    assert scores.score.shape == (len(FILES), 1)


MATMUL, CONV = torch.backends.cuda.matmul, torch.backends.cudnn.conv


@pytest.mark.parametrize("way", ["files", "pixels"])
@pytest.mark.parametrize("by_operation", [False, True])
def test_settings_of_the_process_change_no_score(scorer, scores, way, by_operation):
    """Those of autocast and TF32, of both kinds, which are as they were afterwards."""
    pixels, seen = _to_pixels(decode(FILES[0])), []

    def settings() -> tuple[str, str]:
        return MATMUL.fp32_precision, CONV.fp32_precision

    note = scorer.scorer.register_forward_pre_hook(lambda *_: seen.append(settings()))
    expected = scores.score if way == "files" else scorer.scores_from_pixels(pixels)
    before = MATMUL.fp32_precision
    if by_operation:
        MATMUL.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision("high")
    try:
        with note, torch.autocast("cpu", torch.bfloat16):
            other = ImageScorer(build_embedder(DEMO_EMBEDDER), scorer.scorer)
            found = other(FILES).score if way == "files" else other.scores_from_pixels(pixels)
        assert settings() == ("tf32", "tf32")
    finally:
        if by_operation:
            MATMUL.fp32_precision = before
        else:
            torch.set_float32_matmul_precision("highest")
    assert torch.equal(found, expected)
    assert {matmul for matmul, _ in seen} == {"ieee"}
    assert "tf32" not in {conv for _, conv in seen}


def test_it_takes_decoded_pixels_too(scorer, scores):
    assert torch.equal(scorer([decode(file) for file in FILES]).score, scores.score)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_it_refuses_other_arrays(scorer, image):
    with pytest.raises(InvalidImageError, match=r"expected uint8 \(height, width, 3\)"):
        scorer([image])


def test_it_needs_an_image(scorer):
    with pytest.raises(InvalidImageError, match="no image"):
        scorer([])


def test_the_embedder_has_to_fit_the_scorer():
    with pytest.raises(ConfigError, match=r"width 8, but the embedder makes them 128 wide"):
        ImageScorer(build_embedder(DEMO_EMBEDDER), make_scorer(semantic_dim=8))


def test_a_card_without_embedder_asks_for_one(tmp_path):
    card = dataclasses.replace(CARD, embedder={})
    save_checkpoint(tmp_path / "checkpoint", make_scorer(semantic_dim=128), card)
    with pytest.raises(ConfigError, match="names no embedder"):
        ImageScorer.load(tmp_path / "checkpoint")
    assert ImageScorer.load(tmp_path / "checkpoint", DEMO_EMBEDDER)(FILES[:1]).score.isfinite()


def test_weights_that_change_while_they_are_loaded_are_refused(monkeypatch):
    """As when the hub's files have moved on since the last download."""
    there = EmbedderIdentity.of(DEMO_EMBEDDER, "float32")
    found = iter([there, dataclasses.replace(there, weights_sha256="b" * 64)])
    monkeypatch.setattr(EmbedderIdentity, "of", lambda *_: next(found))
    with pytest.raises(ConfigError, match="the hash of its weights is bbb"):
        ImageScorer.load(DEMO)


@pytest.mark.parametrize("shape", [(300, 200), (120, 200), (64, 64), (500, 501), (20, 300)])
def test_differentiable_views_round_nothing_and_agree_otherwise(shape):
    """Noise is the worst case: it clips at both ends of the range after each direction."""
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels = _to_pixels(rgb)
    for differentiable, exact, limit in (
        (quality_pixels(pixels), quality_view(rgb), 0.52),
        (semantic_pixels(pixels, 112), semantic_view(rgb, 112), 1.2),
        (semantic_pixels(pixels, 224), semantic_view(rgb, 224), 1.2),
    ):
        apart = 255 * differentiable[0].permute(1, 2, 0) - torch.from_numpy(exact)
        assert apart.abs().max() < limit


def test_scores_from_pixels_are_close_to_those_of_the_files(scorer, scores):
    """Measured: at most 0.073 of 0-5, on a blurred image, where rounding is all the noise."""
    with torch.no_grad():
        given = torch.cat([scorer.scores_from_pixels(_to_pixels(decode(f))) for f in FILES])
    torch.testing.assert_close(given, scores.score[:, 0], atol=0.1, rtol=0)


@pytest.mark.parametrize(("scale", "shift"), [(2, -1), (255, 0), (float("nan"), 0)])
def test_float_pixels_of_another_range_are_refused(scorer, scale, shift):
    pixels = _to_pixels(decode(FILES[0]))
    with pytest.raises(InvalidImageError, match=r"pixels run from .* to .*; expected 0 to 1"):
        scorer.scores_from_pixels(scale * pixels + shift)
    assert scorer.scores_from_pixels(1.2 * pixels - 0.1).isfinite()


def test_gradients_are_those_of_finite_differences():
    """In float64, along random directions."""
    scorer = ImageScorer(
        PromptEmbedder(demo_mplug_owl2().double()), make_scorer(semantic_dim=128).double()
    )
    pixels = 0.2 + 0.6 * torch.rand(2, 3, 24, 36, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        scorer.scores_from_pixels, pixels.requires_grad_(), fast_mode=True
    )
    gradient = torch.autograd.grad(scorer.scores_from_pixels(pixels).sum(), pixels)[0]
    assert (gradient != 0).double().mean() > 0.9
    assert all(parameter.grad is None for parameter in scorer.scorer.parameters())


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_gradients_pass_quantized_weights(scorer, dtype):
    quantized = ImageScorer(build_embedder(DEMO_EMBEDDER, dtype=dtype), scorer.scorer)
    pixels = _to_pixels(decode(FILES[0])).requires_grad_()
    quantized.scores_from_pixels(pixels).sum().backward()
    assert pixels.grad.abs().max() > 0


def test_the_package_exports_them_without_importing_torch():
    code = "import sys, ma_agiqa; assert 'torch' not in sys.modules; print(*ma_agiqa.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["MAAGIQA", "ImageScorer", "load_scorer"]


def _to_pixels(rgb):
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
