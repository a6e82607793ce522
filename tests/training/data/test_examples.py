"""The example images: the shipped checkpoint ranks them as a person would, and never saw them."""

import csv
import re
from pathlib import Path

import pytest

from ma_agiqa.pipeline import ImageScorer

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.name.partition("_")[0] for path in EXAMPLES.glob("*_pristine.jpg"))
DEMO = ROOT / "training" / "checkpoints" / "demo"


@pytest.fixture(scope="module")
def scores():
    """Score of every example, by the shipped checkpoint."""
    scorer = ImageScorer.load(DEMO)
    paths = sorted(EXAMPLES.glob("*.jpg"))
    found = scorer([path.read_bytes() for path in paths]).score.squeeze(1)
    return {path.stem: float(score) for path, score in zip(paths, found, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_the_pristine_picture_ranks_above_its_damaged_versions(scores, name):
    damaged = {stem: s for stem, s in scores.items() if stem.startswith(f"{name}_")}
    pristine = damaged.pop(f"{name}_pristine")
    assert len(damaged) == 3
    assert pristine > max(damaged.values()) + 0.5
    assert pristine > max(s for stem, s in scores.items() if stem.endswith("_no_content")) + 0.5


def test_the_examples_are_small():
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 900_000


def test_no_example_was_trained_on():
    listed = ROOT / "training" / "configs" / "demo_photographs.csv"
    with open(listed, newline="", encoding="utf-8") as file:
        names = {Path(row["file"]).name for row in csv.DictReader(file)}
    assert not names & {"astronaut.png", "brick.png", "chelsea.png", "coffee.png"}
    with open(DEMO / "split.csv", newline="", encoding="utf-8") as file:
        images = [row["image"] for row in csv.DictReader(file)]
    assert len(images) > 10_000
    crop = re.compile(r"([0-9]+_)?(astronaut|brick|chelsea|coffee)_[0-9]")
    assert not [image for image in images if crop.match(image)]
