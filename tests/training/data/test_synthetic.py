"""The synthetic set: its pictures, its damage, its pseudo-MOS, its files."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from ma_agiqa.commands.synthetic import main
from ma_agiqa.data import Recipe
from ma_agiqa.data.settings import MOST_DEGRADED
from ma_agiqa.data.synthetic import build, ensure
from ma_agiqa.data.synthetic.build import COLUMNS, views
from ma_agiqa.data.synthetic.degradations import DEGRADATIONS, LEVELS, degrade
from ma_agiqa.data.synthetic.opinion import CONTENT, SEVERITY, expected_mos, rate
from ma_agiqa.data.synthetic.scenes import SCENE_KINDS, draw_scene
from ma_agiqa.data.synthetic.sources import (
    PATTERN_KINDS,
    PHOTOGRAPHS,
    TEXTURES,
    crop,
    draw_pattern,
    load,
)
from ma_agiqa.errors import ConfigError, DataError

SMALL = Recipe(
    seed=3,
    scenes_per_kind=1,
    crops_per_photograph=1,
    crops_per_texture=1,
    patterns_per_kind=1,
    degraded_per_view=2,
)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    build(folder, SMALL)
    return folder


@pytest.fixture
def scene():
    return draw_scene("village", np.random.default_rng(1), 192, 128)


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_scenes_have_the_size_asked_for_and_follow_their_seed(kind):
    first, again, other = (
        draw_scene(kind, np.random.default_rng(seed), 96, 128) for seed in (5, 5, 6)
    )
    assert first.shape == (128, 96, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() > 20  # a picture, not a flat field


def test_unknown_scene_is_an_error():
    with pytest.raises(ConfigError, match="'moonbase'"):
        draw_scene("moonbase", np.random.default_rng(0), 64, 64)


@pytest.mark.parametrize("source", [*PHOTOGRAPHS, *TEXTURES])
def test_photographs_and_textures_come_with_scikit_image(source):
    picture = load(source)
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert crop(picture, np.random.default_rng(0), 200, 150).shape == (150, 200, 3)


@pytest.mark.parametrize("kind", PATTERN_KINDS)
def test_patterns_have_the_size_asked_for_and_a_score(kind):
    assert draw_pattern(kind, np.random.default_rng(0), 90, 60).shape == (60, 90, 3)
    assert CONTENT[kind] < CONTENT["texture"] < CONTENT["scene"]


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_higher_level_changes_the_picture_more_and_scores_lower(scene, name):
    changes, scores = [], []
    for level in LEVELS:
        damaged = degrade(scene, name, level, np.random.default_rng(2))
        assert damaged.shape == scene.shape
        assert damaged.dtype == np.uint8
        changes.append(np.abs(damaged.astype(int) - scene).mean())
        scores.append(expected_mos("scene", [(name, level)]))
    assert changes[0] > 0
    assert changes[0] < changes[-1]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] < expected_mos("scene", [])


def test_shuffling_moves_pixels_but_keeps_most_of_them(scene):
    shuffled = degrade(scene, "shuffle", 4, np.random.default_rng(0))
    assert not np.array_equal(shuffled, scene)
    assert shuffled.mean() == pytest.approx(scene.mean(), abs=2.0)


@pytest.mark.parametrize(("name", "level"), [("scratch", 1), ("blur", 5), ("blur", 0)])
def test_unknown_degradation_or_level_is_an_error(scene, name, level):
    with pytest.raises(ConfigError):
        degrade(scene, name, level, np.random.default_rng(0))


def test_the_pseudo_mos_is_the_documented_formula():
    assert set(SEVERITY) == set(DEGRADATIONS)
    expected = 5 * (0.03 + 0.90 * 1.0 * (1 - 0.34) * (1 - 0.28))
    assert expected_mos("scene", [("blur", 2), ("holes", 1)]) == pytest.approx(expected)
    drawn = [rate("scene", [], np.random.default_rng(seed)) for seed in range(400)]
    assert np.mean(drawn) == pytest.approx(4.65, abs=0.03)
    assert np.std(drawn) == pytest.approx(0.12, abs=0.02)
    assert all(0 <= rate("noise", [], np.random.default_rng(s)) <= 5 for s in range(50))


def test_the_set_has_every_class_and_a_row_for_each_file(small_set):
    table = pd.read_csv(small_set / "data.csv")
    assert tuple(table.columns) == COLUMNS
    assert sorted(table.image) == sorted(p.name for p in (small_set / "images").iterdir())
    assert table.mos.between(0, 5).all()
    assert table.source.nunique() == sum(1 for _ in views(SMALL))
    assert (table.degradation == "none").sum() == sum(1 for _ in views(SMALL))
    pristine = table[(table.degradation == "none") & table.source.str.startswith("scene")]
    nothing = table[table.source.str.startswith(("pattern", "texture"))]
    assert pristine.mos.min() > 4
    assert nothing.mos.max() < 2
    sizes = {Image.open(small_set / "images" / name).size for name in pristine.image}
    assert len(sizes) > 2


def test_the_same_recipe_gives_the_same_bytes_whatever_the_workers(small_set, tmp_path):
    build(tmp_path / "again", SMALL, workers=1)

    def digest(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert digest(tmp_path / "again") == digest(small_set)


def test_ensure_takes_the_set_that_is_there_and_refuses_another(small_set, tmp_path):
    assert ensure(small_set, SMALL) == small_set / "data.csv"
    with pytest.raises(DataError, match="made with the recipe"):
        ensure(small_set, Recipe(seed=4))
    with pytest.raises(DataError, match="not a synthetic set"):
        ensure(tmp_path, SMALL)


def test_the_command_writes_a_set(tmp_path):
    arguments = ["--output", str(tmp_path / "set"), "--seed", "9", "--scenes-per-kind", "0"]
    arguments += ["--crops-per-photograph", "0", "--crops-per-texture", "0"]
    arguments += ["--patterns-per-kind", "1"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0
    assert str(tmp_path / "set" / "data.csv") in done.stdout
    assert json.loads((tmp_path / "set" / "recipe.json").read_text())["seed"] == 9
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "exists already" in again.stderr


def test_impossible_recipes_are_errors():
    assert len(DEGRADATIONS) == MOST_DEGRADED
    with pytest.raises(ConfigError, match="scenes_per_kind is -1"):
        Recipe(scenes_per_kind=-1)
    with pytest.raises(ConfigError, match="degraded_per_view is 9"):
        Recipe(degraded_per_view=9)
