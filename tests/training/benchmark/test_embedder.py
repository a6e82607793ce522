"""The benchmarks of the embedder: what they count and what they compare."""

import mmap
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from ma_agiqa.benchmark.dtypes import LARGEST, LEAST, compare_order, measure_dtypes, refusals
from ma_agiqa.benchmark.embedder import load, measure_batch, random_images
from ma_agiqa.benchmark.machine import (
    PeakMemory,
    count_operations,
    flop,
    gemm_rate,
    median_seconds,
    read_from_disk,
)
from ma_agiqa.benchmark.random_weights import write_random_weights
from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.loading import load_mplug_owl2
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, embedder_config

ROOT = Path(__file__).resolve().parents[3]


def test_a_multiplication_with_its_addition_is_two_operations():
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    total, products = count_operations(lambda: torch.addmm(torch.ones(7), left, right) @ right.T)
    assert total == flop(products) == 2 * 3 * 5 * 7 * 2
    assert products == {(3, 5, 7): 1, (3, 7, 5): 1}


def test_the_cached_path_takes_fewer_operations_than_plain_passes(tiny_owl):
    config = tiny_owl["build"]()
    embedder = PromptEmbedder(MPlugOwl2Model.from_official(config, tiny_owl["state"]))
    pixels = tiny_owl["reference"]["pixel_values"][:1]
    cached, products = count_operations(lambda: embedder(pixels))
    plain, _ = count_operations(lambda: embedder.full_sequence(pixels))
    assert flop(products) < cached < plain


def test_rates_and_memory_are_measured():
    rate = gemm_rate({(64, 128, 256): 3, (8, 8, 8): 1}, torch.float32, "cpu")
    assert 1e7 < rate < 1e14
    assert read_from_disk() >= 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's peak counter")
def test_the_peak_of_memory_is_that_since_the_start():
    """With a mapping, which the system has back at once; allocators keep what they free."""
    memory = PeakMemory("cpu")
    with mmap.mmap(-1, 200 << 20) as block:
        block.write(bytes(len(block)))
        held = psutil.Process().memory_info().rss
    assert memory.read() > held - (20 << 20)
    assert PeakMemory("cpu").read() < held - (100 << 20)


def test_kinds_of_work_alternate():
    done = []
    work = {name: lambda name=name: done.append(name) for name in "ab"}
    assert set(median_seconds(work, 3, "cpu")) == {"a", "b"}
    assert "".join(done) == "ababab"


def test_random_weights_have_the_published_names_and_load(tmp_path):
    config = embedder_config(DEMO_EMBEDDER)
    write_random_weights(config, tmp_path / "owl", torch.bfloat16)
    model = load_mplug_owl2(str(tmp_path / "owl"), "bfloat16")
    weight = model.layers[0].self_attn.q_proj.weight.float()
    assert weight.std().item() * config.hidden_size**0.5 == pytest.approx(1, rel=0.05)
    embedder = PromptEmbedder(model)
    embeddings = embedder(random_images(embedder, 1))
    assert all(torch.isfinite(value).all() for value in embeddings.values())


def test_the_numbers_of_a_batch_add_up():
    embedder, loading = load(DEMO_EMBEDDER, "float32", "cpu")
    assert loading["load, s"] > 0
    row = measure_batch(embedder, "float32", 2, rounds=1)
    assert row["batch"] == 2
    assert row["images/s"] == pytest.approx(1 / row["s/image"])
    assert row["GFLOP/s"] == pytest.approx(row["GFLOP/image"] / row["s/image"])
    share = row["GFLOP/s"] / row["GFLOP/s of bare matrix products"]
    assert row["share of that, %"] == pytest.approx(100 * share)
    assert torch.equal(random_images(embedder, 2), random_images(embedder, 2))


def test_dtypes_are_compared_on_images_and_scores():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(3)]
    dtypes = ["float32", "bfloat16", "int8"]
    scorer, _ = load_scorer(ROOT / "training" / "checkpoints" / "demo")
    rows = measure_dtypes(images, DEMO_EMBEDDER, scorer, dtypes, "cpu", batch=2)
    exact, half, eight = rows
    largest, mean = LARGEST, "score difference, mean"
    assert exact[largest] == exact[mean] == 0
    assert exact["cosine, smallest"] == pytest.approx(1, abs=1e-6)
    assert 0.999 < eight["cosine, smallest"] < half["cosine, smallest"] < 1
    assert 0 < half[mean] <= half[largest] < 0.1
    assert [exact[name] for name in LEAST] == [pytest.approx(1), 100, 100]
    sizes = [row["weights, GB"] for row in (exact, half, eight)]
    assert sizes[2] < sizes[1] == pytest.approx(sizes[0] / 2)


def test_quantized_weights_that_change_scores_are_refused():
    scores = torch.linspace(1, 4, 40)
    swapped = scores[torch.arange(40).view(20, 2).flip(1).flatten()]
    noisy = scores + 0.4 * torch.tensor([1.0, -1.0]).repeat(20)

    def row(dtype: str, made: torch.Tensor) -> dict:
        apart = (made - scores).abs().max().item()
        return {"dtype": dtype, LARGEST: apart, **compare_order(scores, made)}

    exact = row("bfloat16", scores)
    assert row("int8", swapped)["pairs in the same order, %"] == pytest.approx(100 * (1 - 20 / 780))
    assert refusals([exact, row("int8", swapped), row("float16", noisy)]) == []
    (sentence,) = refusals([exact, row("int8", noisy)])
    assert sentence.startswith("int8 changes scores too much: Pearson correlation of scores is 0.9")
    assert "score difference, largest is 0.4, more than 0.25" in sentence
    assert len(refusals([exact, row("int4", torch.full((40,), torch.nan))])) == 1
