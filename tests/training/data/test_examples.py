"""The example images: what the command writes, from sources the demo model never saw."""

import csv
from pathlib import Path

import pytest
import torch
from ma_agiqa.data.synthetic.examples import EXAMPLES, NO_CONTENT, write_examples

from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.data import Recipe
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.sources import build_embedder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def scores():
    """Score of every example, by the shipped checkpoint."""
    embedder = build_embedder("demo")
    model, _ = load_scorer(ROOT / "training" / "checkpoints" / "demo")
    found = {}
    for path in (ROOT / "examples").glob("*.jpg"):
        rgb = decode(path.read_bytes())
        prompts = embedder(torch.from_numpy(semantic_view(rgb, embedder.image_size))[None])
        with torch.inference_mode():
            view = torch.from_numpy(quality_view(rgb))[None]
            found[path.stem] = float(model(view, prompts["semantic"], prompts["coherence"]).score)
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_pristine_picture_ranks_above_its_damaged_versions(scores, name):
    damaged = {stem: s for stem, s in scores.items() if stem.startswith(f"{name}_")}
    pristine = damaged.pop(f"{name}_pristine")
    assert len(damaged) == len(EXAMPLES[name][1])
    assert pristine > max(damaged.values()) + 0.5
    assert pristine > max(scores[stem] for stem in NO_CONTENT) + 0.5


def test_the_command_writes_the_shipped_files(tmp_path):
    write_examples(tmp_path, Recipe())
    shipped = {path.name: path.read_bytes() for path in (ROOT / "examples").glob("*.jpg")}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == shipped
    assert sum(map(len, shipped.values())) < 700_000


def test_no_source_was_trained_on():
    with open(ROOT / "training" / "checkpoints" / "demo" / "split.csv", newline="") as file:
        parts = {row["image"]: row["part"] for row in csv.DictReader(file)}
    sources = [source for source, _ in EXAMPLES.values()]
    for source in [*sources, *(view.source for view in NO_CONTENT.values())]:
        assert {part for image, part in parts.items() if image.startswith(source)} == {"test"}
