"""The commands of the benchmarks: which numbers they print, and what they refuse."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ma_agiqa.benchmark import dtypes
from ma_agiqa.commands.benchmark import main
from ma_agiqa.lmm.mplug_owl2.loading import load_mplug_owl2

EXAMPLES = " ".join(sorted(map(str, (Path(__file__).parents[3] / "examples").glob("*.jpg")))[:2])


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "columns", "names"),
    [
        pytest.param(
            "embedder --dtype fp32 --rounds 1 --threads 1 --batch 1 --batch 2",
            2,
            ["batch", "s/image", "GFLOP/image", "share of that, %", "read from disk, GB"],
            marks=pytest.mark.slow,
        ),
        (
            "scorer --preset demo --dtype bf16 --rounds 1 --batch 1 --batch 2",
            2,
            ["batch", "images/s", "peak memory, GB", "score difference from the image alone"],
        ),
        ("dtypes --dtype int4 FILES", 2, ["dtype", "weights, GB", "load, s", "cosine, mean"]),
        ("preprocess --rounds 1 --threads 2 FILES", 6, ["ms/image"]),
        ("preprocess --rounds 1 --size 64x48 --format PNG", 6, ["ms/image"]),
    ],
)
def test_a_benchmark_prints_its_table(arguments, columns, names):
    told = run(*arguments.replace("FILES", EXAMPLES).split())
    assert "machine  " in told or "with the same pixels both ways" in told
    for name in names:
        assert re.search(rf"^{re.escape(name)}( +\S+){{{columns}}}$", told, re.MULTILINE), told


@pytest.mark.slow
def test_random_weights_of_few_layers_are_made_where_asked(tmp_path):
    arguments = ["--random-weights", "--layers", "1", "--rounds", "1", "--dtype", "int8"]
    told = run("embedder", *arguments, "--embedder", str(tmp_path / "owl"), "--profile")
    assert re.search(r"weights in +int8", told)
    assert re.search(r"aten::(mm|addmm) |onednn::qlinear_pointwise ", told)
    state = load_mplug_owl2(str(tmp_path / "owl"), "bfloat16").state_dict()
    assert not any(name.startswith("layers.1.") for name in state)
    vision = {
        name for name in state if re.match(r"vision_model.*layers\.\d+\.mlp.fc1.weight", name)
    }
    assert len(vision) == 2  # half of the decoder's layers, and about half of the vision's three


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("embedder --layers 2", "--random-weights"),
        ("embedder --device cuda:99", "torch sees no"),
        ("scorer --preset paper", "--random-weights"),
        ("preprocess", "--size WIDTHxHEIGHT"),
        ("preprocess --size big", "such as 1024x1024"),
    ],
)
def test_what_cannot_be_measured_is_explained(arguments, said):
    done = CliRunner().invoke(main, arguments.split())
    assert done.exit_code != 0
    assert said in done.stderr


@pytest.mark.slow
def test_quantized_weights_are_judged_on_enough_images(monkeypatch):
    monkeypatch.setitem(dtypes.MOST, dtypes.LARGEST, 1e-6)
    demo = ["--checkpoint", str(Path(__file__).parents[3] / "training" / "checkpoints" / "demo")]
    few = CliRunner().invoke(main, ["dtypes", *demo, "--dtype", "int4", *EXAMPLES.split()])
    assert few.exit_code == 0
    assert "Not judged: give 20 images or more" in few.stderr
    enough = ["dtypes", *demo, "--dtype", "int8", *(10 * EXAMPLES.split())]
    refused = CliRunner().invoke(main, enough)
    assert refused.exit_code == 1
    assert "int8 changes scores too much" in refused.stderr
    assert "--accept-changes" in refused.stderr
    accepted = CliRunner().invoke(main, [*enough, "--accept-changes"])
    assert accepted.exit_code == 0
