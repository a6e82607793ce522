"""Graded damage, and the set of damaged photographs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from ma_agiqa.commands.degraded import main
from ma_agiqa.data.degraded import DEGRADATIONS, degrade
from ma_agiqa.data.degraded.build import build, read_sources
from ma_agiqa.data.degraded.opinion import SEVERITY, pseudo_mos
from ma_agiqa.data.degraded.pictures import PATTERNS
from ma_agiqa.errors import ConfigError, DataError

STRENGTHS = (0.1, 0.4, 0.7, 1.0)
UNEVEN = ("motion", "defocus", "shuffle", "swap", "repeat", "melt")  # waves and pieces coincide


def photograph() -> np.ndarray:
    """Blobs of color with fine texture; every degradation has something to damage."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:240, :320] / 320
    waves = [np.sin(2 * np.pi * (columns * f + rows * g)) for f, g in ((2, 1), (1, 3), (40, 23))]
    smooth = 128 + 40 * waves[0] + 30 * waves[1] + 15 * waves[2]
    tinted = smooth[..., None] * (1.0, 0.8, 0.6) + rng.normal(0, 8, (240, 320, 3))
    return np.clip(tinted, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_stronger_degradation_changes_more(name):
    picture = photograph()
    kept = picture.copy()
    changes = []
    for strength in STRENGTHS:
        damaged = degrade(picture, name, strength, np.random.default_rng(3))
        again = degrade(picture, name, strength, np.random.default_rng(3))
        assert (damaged.shape, damaged.dtype) == (picture.shape, np.uint8)
        assert np.array_equal(damaged, again)
        changes.append(float(np.abs(damaged.astype(float) - picture).mean()))
    assert np.array_equal(picture, kept)
    assert min(changes) > 0
    assert changes[-1] > changes[0]
    if name not in UNEVEN:
        assert changes == sorted(changes)


@pytest.mark.parametrize("shape", [(33, 47), (16, 64), (200, 31)], ids=str)
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_pictures_of_odd_sizes_keep_their_size(name, shape):
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for strength in (0.01, 1.0):
        assert degrade(picture, name, strength, np.random.default_rng(0)).shape == picture.shape


@pytest.mark.parametrize(
    ("name", "strength", "message"),
    [
        ("rust", 0.5, "choose one of blur"),
        ("blur", 0.0, "above 0"),
        ("blur", 1.1, "at most 1"),
        ("blur", float("nan"), "above 0"),
    ],
)
def test_what_cannot_be_done_is_an_error(name, strength, message):
    with pytest.raises(ConfigError, match=message):
        degrade(photograph(), name, strength, np.random.default_rng(0))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A set of one photograph, one texture and two patterns of each kind."""
    folder = tmp_path_factory.mktemp("degraded")
    for name in ("a.png", "wall.png", "a.b.png"):
        Image.fromarray(photograph()).save(folder / name)
    (folder / "list.csv").write_text(
        "file,content,license\na.png,photograph,x\nwall.png,texture,x\na.b.png,texture,x\n"
    )
    options = ["--photographs", folder / "list.csv", "--folder", folder, "--crops", 2]
    options += ["--patterns", 2, "--output", folder / "set"]
    done = CliRunner().invoke(main, [str(option) for option in options])
    assert done.exit_code == 0, done.output
    return folder


def test_a_set_has_every_version_of_every_picture(made):
    table = pd.read_csv(made / "set" / "data.csv", keep_default_na=False)
    assert table.source.value_counts().to_dict() == {
        "a": 2 * (1 + 8 * 3 + 6),
        "wall": 2 * (1 + 2 * 3),
        "a.b": 2 * (1 + 2 * 3),
        **{f"{name}_{i:02d}": 1 + 2 * 3 for name in PATTERNS for i in range(2)},
    }
    assert table.image.is_unique
    pictures = table.groupby("picture")
    assert pictures.source.nunique().max() == 1
    assert pictures.degradations.agg(lambda damage: (damage == "none").sum()).eq(1).all()
    for row in table.itertuples():
        with Image.open(made / "set" / "images" / row.image) as image:
            assert min(image.size) >= 64
    assert table.mos.between(0, 5).all()
    best = table[table.degradations == "none"].groupby("source").mos.max()
    assert best["a"] > 4.5 > 1.6 > best["wall"] > best["flat_00"]


def test_a_stronger_degradation_is_never_rated_higher(made):
    assert SEVERITY.keys() == DEGRADATIONS.keys()
    for name in SEVERITY:
        ratings = [pseudo_mos("photograph", [(name, s)]) for s in (0.05, 0.3, 0.6, 1.0)]
        assert ratings == sorted(ratings, reverse=True)
        assert pseudo_mos("photograph") > ratings[0]
        assert pseudo_mos("photograph", [(name, 0.3), ("blur", 0.1)]) < ratings[1]


def test_the_same_seed_makes_the_same_set(made, tmp_path):
    again = build(tmp_path / "set", read_sources(made / "list.csv", made), 2, 2, workers=1)
    assert again.read_bytes() == (made / "set" / "data.csv").read_bytes()
    for path in sorted((made / "set" / "images").glob("*_0_1*")):
        assert (tmp_path / "set" / "images" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\na.png\n", "columns file and content"),
        ("file,content\na.png,portrait\n", "photograph or texture"),
        ("file,content\nb.png,photograph\n", "b.png is missing"),
        ("file,content\n" + 2 * "a.png,photograph\n", "a.png is listed more than once"),
    ],
)
def test_a_list_that_cannot_be_used_is_an_error(made, tmp_path, content, message):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_sources(tmp_path / "list.csv", made)


def test_an_existing_folder_is_kept(made):
    with pytest.raises(DataError, match="exists already"):
        build(made / "set", [])
