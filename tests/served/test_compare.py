"""`score.py compare`: two sets of pictures, through a server and from stored scores."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa.data.degraded import degrade

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROMPTS, EACH = 12, 2


def write(folder: Path, shift: int, extension: str = "png") -> Path:
    """Pictures of 12 prompts whose brightness is shifted; 51 levels are 1 MOS of the stand-in."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prompt in range(PROMPTS):
        for index in range(EACH):
            level = int(np.clip(100 + rng.integers(-20, 20) + shift + (prompt % 3), 0, 255))
            pixels = np.full((32, 32, 3), level, np.uint8)
            Image.fromarray(pixels).save(folder / f"p{prompt:02d}_{index}.{extension}")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    shifts = {"base": 0, "worse": -26, "same": 0, "slightly": -5}
    return {name: write(folder / name, shift) for name, shift in shifts.items()}


@pytest.mark.parametrize(
    ("candidate", "margin", "status", "verdict"),
    [
        ("worse", 0.1, 10, "worse"),
        ("same", 0.0, 0, "not worse"),
        ("slightly", 0.2, 0, "not worse"),
        ("slightly", 0.098, 11, "undecided"),
    ],
)
def test_the_exit_status_says_whether_it_is_worse(
    stand_in, sets, score_py, candidate, margin, status, verdict
):
    if verdict == "undecided":  # some prompts are lower by less, others by more
        for path in sets["base"].glob("p0*_0.png"):
            pixels = np.asarray(Image.open(path))
            Image.fromarray(pixels - 10).save(sets[candidate] / path.name)
    options = ("--url", stand_in.grpc_url, "--margin", margin, "--prompt", "(p[0-9]+)_")
    done = score_py("compare", sets["base"], sets[candidate], *options, "--json")
    assert done.exit_code == status, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == verdict
    assert (found["pairs"], found["clusters"]) == (24, 12)


def test_a_difference_is_stated_with_its_interval(stand_in, sets, score_py, tmp_path):
    page = tmp_path / "worst.html"
    options = ("--url", stand_in.grpc_url, "--report", page)
    done = score_py("compare", sets["base"], sets["worse"], *options)
    assert done.exit_code == 10
    assert "24 pairs. Candidate - base: -0.510 MOS, 95% interval [-0.510, -0.510]" in done.stdout
    assert "better in 0% of the pairs and worse in 100%" in done.stdout
    text = page.read_text()
    assert text.count("<section>") == 20
    assert text.count("data:image/webp") == 40
    assert "-0.51" in text


def test_stored_scores_need_no_server(stand_in, sets, score_py, tmp_path):
    files = {}
    for name, ending in {"base": "csv", "worse": "jsonl", "same": "json"}.items():
        files[name] = tmp_path / f"{name}.{ending}"
        options = ("--url", stand_in.grpc_url, "--output", files[name])
        assert score_py(sets[name], *options).exit_code == 0
    nowhere = ("--url", "127.0.0.1:1", "--timeout", "1")
    assert score_py("compare", files["base"], files["worse"], *nowhere).exit_code == 10
    assert score_py("compare", files["base"], files["same"], *nowhere).exit_code == 0
    images = {name: tmp_path / name / "images" for name in ("one", "two")}  # of one path each
    for name, source in zip(images, ("base", "worse"), strict=True):
        shutil.copytree(sets[source], images[name])
        options = ("--url", stand_in.grpc_url, "--output", tmp_path / f"{name}.csv")
        with contextlib.chdir(tmp_path / name):
            assert score_py("images", *options).exit_code == 0
    assert score_py("compare", tmp_path / "one.csv", tmp_path / "two.csv").exit_code == 10
    text = files["base"].read_text().replace("ma-agiqa-demo", "another")
    files["base"].write_text(text)
    done = score_py("compare", files["base"], files["worse"], *nowhere)
    assert done.exit_code == 2
    assert "scores are of 2 models" in done.stderr


def test_a_sequential_run_stops_early(stand_in, score_py, tmp_path):
    for name, shift in {"base": 0, "worse": -40}.items():
        folder = tmp_path / name
        folder.mkdir()
        for number in range(100):
            level = 150 + number % 20 + shift
            pixels = np.full((8, 8, 3), level, np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    options = ("--url", stand_in.grpc_url, "--sequential", "--json")
    done = score_py("compare", tmp_path / "base", tmp_path / "worse", *options)
    assert done.exit_code == 10, done.stderr
    assert json.loads(done.stdout)["pairs"] < 100


@pytest.mark.slow
def test_the_shipped_model_finds_graded_damage(server, score_py, tmp_path):
    """The stronger the blur of 24 crops of photographs, the larger the loss that is found."""
    crops = {}
    for path in sorted(EXAMPLES.glob("*_pristine.jpg")):
        with Image.open(path) as image:
            whole = np.asarray(image.convert("RGB").resize((448, 448)))
        for row, column in np.ndindex(2, 4):
            crop = whole[224 * row :][:224, 74 * column :][:, :224]
            crops[f"{path.stem}_{row}{column}"] = crop
    for strength in (0.0, 0.12, 0.35, 0.9):
        folder = tmp_path / str(strength)
        folder.mkdir()
        for name, crop in crops.items():
            if strength:
                crop = degrade(crop, "blur", strength, np.random.default_rng(0))
            Image.fromarray(crop).save(folder / f"{name}.png")
    found = {}
    for folder in sorted(tmp_path.iterdir()):
        options = ("--url", server.grpc_url, "--json", "--margin", 0.1)
        done = score_py("compare", tmp_path / "0.0", folder, *options)
        found[folder.name] = json.loads(done.stdout)
    means = [one["mean"] for one in found.values()]
    assert means[0] == 0
    assert means == sorted(means, reverse=True)
    verdicts = [one["verdict"] for one in found.values()]
    assert (verdicts[0], verdicts[-2:]) == ("not worse", ["worse", "worse"])


def test_what_has_no_partner_or_no_score_is_reported(stand_in, sets, score_py, tmp_path):
    other = write(tmp_path / "other", 0, "jpg")
    (other / "p00_0.jpg").unlink()
    (other / "p01_0.jpg").write_bytes(b"no image")
    options = ("--url", stand_in.grpc_url, "--json")
    done = score_py("compare", sets["base"], other, *options)
    assert done.exit_code == 1, done.stderr
    found = json.loads(done.stdout)
    assert (found["pairs"], found["without_partner"], found["without_score"]) == (22, 1, 1)
    assert "p01_0.jpg" in done.stderr
    files = {folder: tmp_path / f"{folder.name}.csv" for folder in (sets["base"], other)}
    for folder, file in files.items():
        score_py(folder, "--url", stand_in.grpc_url, "--output", file)
    done = score_py("compare", *files.values(), "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (1, found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{base}", "{base}/p00_0.png"), "is no folder and no file of scores"),
        (("{base}", "{empty}"), "has a partner in"),
        (("{base}", "{worse}", "--pair", "(p[0-9]+)_"), "have the same name"),
        (("{base}", "{worse}", "--prompt", "x([0-9])"), "--prompt does not match"),
    ],
)
def test_what_cannot_be_compared_is_refused(sets, score_py, tmp_path, arguments, message):
    named = [argument.format(**sets, empty=tmp_path) for argument in arguments]
    done = score_py("compare", *named)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
