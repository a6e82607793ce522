"""The checker of data sets, as a command."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ma_agiqa.commands.datasets import main
from support.generated_agiqa_3k import write_tree

CONFIG = Path(__file__).resolve().parents[3] / "training" / "configs" / "agiqa_3k.yaml"


@pytest.fixture
def tree(tmp_path):
    """Fifty rows of AGIQA-3k with generated images, and a config for them."""
    table = write_tree(tmp_path / "data", 50)
    settings = yaml.safe_load(CONFIG.read_text())
    settings["data"]["csv"] = str(table)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def run(tree, *options):
    command = ["check", "--config", str(tree / "config.yaml"), *options]
    return CliRunner().invoke(main, command)


def test_a_good_set_is_described(tree):
    done = run(tree)
    assert done.exit_code == 0, done.stdout + done.stderr
    for fact in ("AGIQA-3k: 50 images", "train: 35 images", "test: 10 images", "AttnGAN: 5"):
        assert fact in done.stdout
    assert "0 problems" in done.stdout


def test_shared_prompts_are_warned_of(tree):
    table = tree / "data" / "data.csv"
    lines = table.read_text().splitlines()
    header, rows = lines[0], [line.split(",") for line in lines[1:]]
    rows = [[row[0], "one prompt", *row[-2:]] for row in rows]
    table.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    done = run(tree)
    assert done.exit_code == 0
    assert (
        "10 of 10 test images (100.0%) have a prompt that is also in the train or validation part"
        in done.stdout
    )


def test_all_that_is_wrong_is_reported_in_one_go(tree):
    images = sorted((tree / "data" / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:200])
    images[1].write_bytes(b"")
    images[3].write_bytes(images[2].read_bytes())
    done = run(tree)
    assert done.exit_code == 1
    assert images[0].name in done.stdout
    assert images[1].name in done.stdout
    assert "2 problems" in done.stdout
    assert "1 files occur under several names" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (",0.965602553,", ",7.5,", "outside data.mos_range (0 to 5), the first one in row 2 (7.5)"),
        (",0.965602553,", ",nan,", "row 2: the score is 'nan'"),
        ("AttnGAN_normal_000.jpg", "gone.jpg", "row 2: there is no file gone.jpg"),
        ("mos_quality", "quality", "has no column ['mos_quality']"),
    ],
)
def test_a_bad_table_is_a_problem_with_its_row(tree, old, new, sentence):
    table = tree / "data" / "data.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))
    done = run(tree)
    assert done.exit_code == 1
    assert sentence in done.stdout


def test_an_override_changes_the_split(tree):
    done = run(tree, "--set", "split.kind=prompt-disjoint")
    assert "Split 'prompt-disjoint'" in done.stdout
    wrong = run(tree, "--set", "split.kind=any")
    assert wrong.exit_code == 1
    assert "split.kind is 'any'; choose one of" in wrong.stderr
    unequal = run(tree, "--set", "split.kind")
    assert "write NAME=VALUE" in unequal.stderr
