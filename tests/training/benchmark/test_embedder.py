"""The benchmarks of the embedding model: what they count, what they compare, what they say."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ma_agiqa.benchmark.dtypes import measure_dtypes
from ma_agiqa.benchmark.embedder import load, measure_batch, random_images
from ma_agiqa.benchmark.machine import GemmShape, PeakMemory, gemm_rate, read_from_disk
from ma_agiqa.benchmark.operations import count_operations
from ma_agiqa.benchmark.random_weights import write_random_weights
from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.commands.benchmark import main
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.loading import load_mplug_owl2
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, embedder_config

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_cached_path_takes_fewer_operations_than_plain_passes(tiny_owl):
    config = tiny_owl["build"]()
    embedder = PromptEmbedder(MPlugOwl2Model.from_official(config, tiny_owl["state"]))
    pixels = tiny_owl["reference"]["pixel_values"][:1]
    cached, shapes = count_operations(lambda: embedder(pixels))
    plain, _ = count_operations(lambda: embedder.full_sequence(pixels))
    assert sum(shape.flop for shape in shapes) < cached < plain


def test_rates_and_memory_are_measured():
    rate = gemm_rate([GemmShape(64, 128, 256, 3), GemmShape(8, 8, 8, 1)], torch.float32, "cpu")
    assert 1e7 < rate < 1e14
    before = PeakMemory("cpu").read()
    memory = PeakMemory("cpu")
    torch.ones(30_000_000)  # 120 MB, given back at once
    assert memory.read() - before > 60e6
    assert read_from_disk() >= 0


def test_random_weights_have_the_published_names_and_load(tmp_path):
    config = embedder_config(DEMO_EMBEDDER)
    write_random_weights(config, tmp_path / "owl", torch.bfloat16)
    model = load_mplug_owl2(str(tmp_path / "owl"), "bfloat16")
    weight = model.layers[0].self_attn.q_proj.weight.float()
    assert weight.std().item() * config.hidden_size**0.5 == pytest.approx(1, rel=0.05)
    embeddings = PromptEmbedder(model)(torch.zeros(1, 224, 224, 3, dtype=torch.uint8))
    assert all(torch.isfinite(value).all() for value in embeddings.values())


def test_the_command_states_every_number():
    told = run(
        "embedder",
        "--dtype",
        "fp32",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--batch",
        "1",
        "--batch",
        "2",
    )
    assert re.search(r"machine  \S.*, 1 threads, no GPU in use, torch \d", told)
    assert re.search(
        r"load +[\d.]+ s to ready, [\d.]+ GB read from disk, peak [\d.]+ GB, weights in float32",
        told,
    )
    assert re.search(r"count +[\d.]+ GFLOP per image", told)
    for batch in (1, 2):
        assert re.search(
            rf"batch {batch} +[\d.]+ s/image, [\d.]+ images/s .*: [\d.]+ GFLOP/s, \d+% of the "
            r"[\d.]+ GFLOP/s of bare matrix products; peak [\d.]+ GB",
            told,
        )


@pytest.mark.slow
def test_random_weights_of_few_layers_are_made_where_asked(tmp_path):
    arguments = ["--random-weights", "--layers", "1", "--rounds", "1", "--dtype", "int8"]
    told = run("embedder", *arguments, "--embedder", str(tmp_path / "owl"), "--profile")
    assert "weights in int8" in told
    assert re.search(r"aten::(mm|addmm) ", told)
    state = load_mplug_owl2(str(tmp_path / "owl"), "bfloat16").state_dict()
    assert not any(name.startswith("layers.1.") for name in state)
    vision = {
        name for name in state if re.match(r"vision_model.*layers\.\d+\.mlp.fc1.weight", name)
    }
    assert len(vision) == 2  # half of the decoder's layers, and about half of the vision's three


def test_layers_belong_to_random_weights():
    done = CliRunner().invoke(main, ["embedder", "--layers", "2"])
    assert done.exit_code == 1
    assert "--random-weights" in done.stderr


@pytest.mark.slow
def test_a_pass_is_measured_as_often_as_asked():
    loaded = load(DEMO_EMBEDDER, "float32", "cpu")
    speed = measure_batch(loaded, 2, rounds=2)
    assert 0 < speed.fastest_s <= speed.seconds
    assert speed.flop_per_s == pytest.approx(speed.flop / speed.seconds)
    assert torch.equal(random_images(loaded.embedder, 2), random_images(loaded.embedder, 2))


def test_dtypes_are_compared_on_images_and_scores():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(3)]
    scorer, _ = load_scorer(ROOT / "training" / "checkpoints" / "demo")
    exact, half, eight = measure_dtypes(
        images, DEMO_EMBEDDER, scorer.eval(), "float32", ["bfloat16", "int8"], "cpu", batch=2
    )
    assert exact.score_difference == (0, 0)
    assert exact.cosine[0] == pytest.approx(1, abs=1e-6)
    assert 0.999 < eight.cosine[0] < half.cosine[0] < 1
    assert 0 < half.score_difference[1] <= half.score_difference[0] < 0.1
    assert eight.weight_bytes < half.weight_bytes == pytest.approx(exact.weight_bytes / 2)


def test_the_command_compares_dtypes_of_files(tmp_path):
    files = []
    for index in range(2):
        files.append(str(tmp_path / f"{index}.png"))
        Image.new("RGB", (40, 30), (90 * index, 50, 200)).save(files[-1])
    told = run("dtypes", *files, "--dtype", "int4")
    assert "2 images, against fp32" in told
    assert re.search(r"int4 +[\d.]+ GB +[\d.]+ GB +[\d.]+ s +[\d.]+ +0\.\d{5}, 0\.\d{5} +-", told)
