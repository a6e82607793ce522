"""The example images: what the command writes, from sources the demo model never saw."""

import csv
from pathlib import Path

from ma_agiqa.synthetic import Recipe
from ma_agiqa.synthetic.examples import EXAMPLES, NO_CONTENT, write_examples

ROOT = Path(__file__).resolve().parents[2]


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
