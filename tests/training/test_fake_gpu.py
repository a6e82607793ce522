"""Every served and every benchmarked path on a GPU, where none is there: see `support.fake_gpu`."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from ma_agiqa.benchmark import dtypes, embedder, machine, scorer
from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.lmm.alignment import Aligner, AlignmentMethod
from ma_agiqa.lmm.answers import Answerer
from ma_agiqa.lmm.mplug_owl2 import IMAGE_TOKEN_ID
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, DTYPES, build_embedder, embedder_config
from ma_agiqa.lmm.tokenizer import Tokenizer
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.pipeline import ImageScorer
from support.fake_gpu import DEVICE, fake_gpu
from support.llama_tokenizer import write_tokenizer

CHECKPOINT = Path(__file__).resolve().parents[2] / "training" / "checkpoints" / "demo"
FLOATS = (None, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def few_passes(monkeypatch) -> None:
    monkeypatch.setattr(machine, "_GEMM_S", 0.0)
    monkeypatch.setattr(scorer, "_CALIBRATION_IMAGES", 1)


@pytest.fixture
def network() -> MAAGIQA:
    return load_scorer(CHECKPOINT)[0]


def views(count: int, side: int) -> torch.Tensor:
    return torch.zeros(count, side, side, 3, dtype=torch.uint8)


def devices(outputs: Iterable[torch.Tensor]) -> set[torch.device]:
    return {output.device for output in outputs}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_embedder(dtype):
    with fake_gpu():
        network = build_embedder(DEMO_EMBEDDER, DEVICE, dtype)
        for count in (1, 3):
            made = network(views(count, network.image_size)).values()
            assert {(v.device, v.dtype, v.shape) for v in made} == {
                (DEVICE, torch.float32, (count, network.hidden_size))
            }


def test_ways_through_the_embedder_that_are_not_recorded(tmp_path):
    with fake_gpu(reads=True):
        network = build_embedder(DEMO_EMBEDDER, DEVICE, "float16")
        images = views(2, network.image_size)
        pixels = images.permute(0, 3, 1, 2).to(DEVICE).float()
        assert devices(network.embed_pixels(pixels).values()) == {DEVICE}
        assert devices(network.full_sequence(images).values()) == {DEVICE}
        config = embedder_config(DEMO_EMBEDDER)
        head = torch.zeros(
            config.vocab_size, config.hidden_size, dtype=torch.float16, device=DEVICE
        )
        answerer = Answerer(network, head)
        for answer in ((), (1,)):  # the second time from kept keys and values
            assert answerer.next_token(images[0], [5, IMAGE_TOKEN_ID, 6, *answer]) == 1
        tokenizer = Tokenizer(write_tokenizer(tmp_path))
        aligner = Aligner(network.model, head, tokenizer, AlignmentMethod())
        made, tokens = network.with_tokens(images)
        alignments = aligner(tokens, [aligner.ask("a cat"), aligner.ask("a red cat at night")])
        assert devices([*made.values(), alignments]) == {DEVICE}
        assert alignments.shape == (2, 1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_exported_scorer(network, dtype):
    side, width = network.config.image_size, network.config.semantic_dim
    inputs = views(3, side), torch.zeros(3, width), torch.zeros(3, width)
    exported = network if dtype is None else accelerate(network, dtype, gpu=True)
    with fake_gpu():
        outputs = exported.to(DEVICE)(*(part.to(DEVICE) for part in inputs))
        assert {(v.device, v.dtype) for v in outputs} == {(DEVICE, torch.float32)}


@pytest.mark.parametrize("arithmetic", [None, torch.float16])
def test_an_image_is_scored(network, arithmetic):
    image = np.zeros((40, 30, 3), np.uint8)
    with fake_gpu():
        embedder = build_embedder(DEMO_EMBEDDER, DEVICE, "float16")
        scorer = network.to(DEVICE)
        scorer = scorer if arithmetic is None else accelerate(scorer, arithmetic)
        both = ImageScorer(embedder, scorer)
        assert devices(both([image, image])) == {DEVICE}


def test_float_pixels_are_scored(network):
    with fake_gpu(reads=True):  # of their range
        both = ImageScorer(build_embedder(DEMO_EMBEDDER, DEVICE, "float16"), network.to(DEVICE))
        assert both.scores_from_pixels(torch.zeros(1, 3, 40, 30, device=DEVICE)).device == DEVICE


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_benchmark_of_the_embedder(dtype):
    with fake_gpu(reads=True):
        network, _ = embedder.load(DEMO_EMBEDDER, dtype, "cuda:0")
        assert embedder.measure_batch(network, dtype, 2, rounds=1)["batch"] == 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_benchmark_of_the_scorer(network, dtype):
    with fake_gpu(reads=True):
        (row,) = scorer.measure_scorer(network.to(DEVICE), (2,), dtype, rounds=1)
        assert row["batch"] == 2
        scorer.picture_deviation(scorer.random_scorer(network.config, DEVICE), DEVICE)


def test_the_benchmark_of_dtypes(network):
    image = np.zeros((40, 30, 3), np.uint8)
    with fake_gpu(reads=True):
        rows = dtypes.measure_dtypes([image], DEMO_EMBEDDER, network, ["float16"], "cuda:0")
        assert [row["dtype"] for row in rows] == ["float16"]


def test_mixed_devices_are_found():
    with fake_gpu(), pytest.raises(RuntimeError, match="two different devices cuda:0, cpu"):
        torch.zeros(2, device=DEVICE).index_select(0, torch.zeros(1, dtype=torch.long))


def test_reading_a_number_is_found():
    with fake_gpu(), pytest.raises(RuntimeError):
        float(torch.zeros(1, device=DEVICE))
