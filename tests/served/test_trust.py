"""Intervals, familiarity and comparisons through the real server; the networks are stand-ins."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc.model_config_pb2 import ModelConfig

from embedded.server import EmbeddedTriton
from exporter.model_control import ModelControl, read_key
from exporter.versions import read_config, write_config
from ma_agiqa_client import Interval, ModelCard, Score, Scorer, WrongModelError
from support.servers import serving
from support.stand_in.repository import CALIBRATION


def gray(level: int) -> np.ndarray:
    return np.full((32, 32, 3), level, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of two prompts: of the first the best two tie, one of the second is unfamiliar."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, level in {"cat_1": 204, "cat_2": 202, "cat_3": 51, "dog_1": 153, "dog_2": 5}.items():
        Image.fromarray(gray(level)).save(folder / f"{name}.png")
    return folder


def check(score: Score, card: ModelCard) -> None:
    """Brightness 153 of 255: the score is 3, the deviation 0.25 + 3 / 20."""
    assert score.mos == pytest.approx(3)
    assert score.deviation == pytest.approx(0.4)
    assert score.interval == pytest.approx(Interval(2.2, 3.8))
    assert score.familiarity == pytest.approx(0.6)
    assert card.calibration.level == 0.9
    assert card.calibration.record == CALIBRATION
    assert card.calibration.is_familiar(score)


@pytest.fixture
def either(kind: type, stand_in: EmbeddedTriton) -> Iterator[Scorer]:
    """A client of the stand-in, of either kind."""
    with kind(stand_in.grpc_url) as scorer:
        yield scorer


def test_a_score_comes_with_its_interval_and_familiarity(either):
    check(either.score(gray(153)), either.model())
    assert not either.model().calibration.is_familiar(either.score(gray(5)))


def test_two_images_are_compared(either):
    clear = either.compare(gray(204), gray(51))
    assert clear.better == "a"
    assert clear.probability == 1
    assert (clear.a.mos, clear.b.mos) == pytest.approx((4, 1))
    tie = either.compare(gray(150), gray(153))
    assert tie.is_tie
    assert 0.25 < tie.probability < 0.5
    assert either.compare(gray(150), gray(150)).probability == 0.5


def test_ranking_says_whether_the_best_is_distinguishable(either):
    ranked = either.rank([gray(51), gray(202), gray(204)])
    assert [one.index for one in ranked] == [2, 1, 0]
    assert ranked[0].lead < 0.75 < ranked[1].lead
    assert either.rank([gray(204), gray(202)], top=1)[0].lead == ranked[0].lead


def test_the_table_marks_ties_and_extrapolations(stand_in, folder, score_py):
    done = score_py(folder, "--url", stand_in.grpc_url, "--group-by", "([a-z]+)_", "--top", 2)
    assert done.exit_code == 0, done.stderr
    assert "90% interval" in done.stdout
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if ".png" in line}
    of = {Path(name).stem: line for name, line in rows.items()}
    assert "= 4.000" in of["cat_1"]
    assert "3.10 to 4.90" in of["cat_1"]
    assert "= " not in of["cat_2"]  # distinguishable from cat_3, which is not shown
    assert "? 0.098" in of["dog_2"]
    assert "an extrapolation" in done.stdout
    assert "not distinguishable from the next best" in done.stdout


def test_csv_and_json_have_them(stand_in, folder, score_py):
    done = score_py(folder / "dog_1.png", "--url", stand_in.grpc_url, "--format", "csv")
    row = next(csv.DictReader(io.StringIO(done.stdout)))
    numbers = [float(row[name]) for name in ("interval_low", "interval_high", "deviation")]
    assert numbers == pytest.approx([2.2, 3.8, 0.4])
    assert float(row["familiarity"]) == pytest.approx(0.6)
    done = score_py(folder / "dog_1.png", "--url", stand_in.grpc_url, "--format", "json")
    assert json.loads(done.stdout)[0]["interval"] == pytest.approx([2.2, 3.8])


def test_an_interrupted_run_keeps_them(stand_in, folder, score_py, tmp_path):
    options = ("--url", stand_in.grpc_url, "--resume", tmp_path / "kept.jsonl", "--format", "json")
    first, second = (json.loads(score_py(folder, *options).stdout) for _ in range(2))
    assert first == second
    assert all(row["familiarity"] is not None for row in second)


def test_the_familiarity_is_counted_for_drift(stand_in, scorer):
    from served.test_metrics import change

    moved = change(stand_in, lambda: scorer.score(gray(153)), "ma_agiqa_familiarity_count")
    assert moved["ma_agiqa_familiarity_count"] == 1
    assert moved["ma_agiqa_familiarity_sum"] == pytest.approx(0.6, abs=1e-4)


def without_calibration(config: ModelConfig) -> ModelConfig:
    """The ensemble of a version without calibration, as exports write it next to one with it."""
    del config.parameters["calibration"]
    for tensor in [one for one in config.output if one.name in ("INTERVAL", "FAMILIARITY")]:
        config.output.remove(tensor)
    for step in config.ensemble_scheduling.step:
        for own, name in [(o, n) for o, n in step.output_map.items()]:
            if name in ("INTERVAL", "FAMILIARITY"):
                del step.output_map[own]
    return config


@pytest.fixture(scope="module")
def mixed(stand_in_repository, tmp_path_factory) -> Iterator[EmbeddedTriton]:
    """A server whose active version is calibrated, and whose kept version 2 is not."""
    repository = tmp_path_factory.mktemp("mixed") / "models"
    shutil.copytree(stand_in_repository, repository)
    (repository / "ma_agiqa_v2" / "1").mkdir(parents=True)
    other = without_calibration(read_config(repository, "ma_agiqa_v1"))
    other.name, other.parameters["version"].string_value = "ma_agiqa_v2", "2"
    write_config(repository, other)
    with serving(repository) as server:
        yield server


def test_a_version_without_calibration_is_served_next_to_one_that_has_it(mixed, kind):
    with kind(mixed.grpc_url) as active, kind(mixed.grpc_url, version=2) as plain:
        check(active.score(gray(153)), active.model())
        assert plain.model().calibration is None
        ranked = plain.rank([gray(153), gray(51)])
        assert [one.mos for one in ranked] == pytest.approx([3, 1])
        for one in ranked:
            assert (one.interval, one.deviation, one.familiarity, one.lead) == (None,) * 4
        with pytest.raises(WrongModelError, match="was not calibrated"):
            plain.compare(gray(100), gray(200))


def test_the_command_line_says_that_there_is_no_interval(mixed, folder, score_py, tmp_path):
    page, options = tmp_path / "page.html", ("--url", mixed.grpc_url, "--model-version", 2)
    done = score_py(folder, *options, "--report", page, "--group-by", "([a-z]+)_", "--top", 2)
    assert done.exit_code == 0, done.stderr
    for text in (done.stdout, page.read_text()):
        assert "was not calibrated: its scores have no intervals" in text
    assert "90%" not in done.stdout
    assert "nan" not in done.stdout.lower()
    assert '"interval":null' in page.read_text()
    done = score_py(folder / "dog_1.png", *options, "--format", "csv")
    row = next(csv.DictReader(io.StringIO(done.stdout)))
    names = ("interval_low", "interval_high", "deviation", "familiarity")
    assert [row[name] for name in names] == [""] * 4
    done = score_py(folder / "dog_1.png", *options, "--format", "json")
    found = json.loads(done.stdout)[0]
    assert [found[name] for name in ("interval", "deviation", "familiarity")] == [None] * 3


def test_a_scorer_follows_to_a_version_without_calibration_and_back(mixed):
    """Its card is kept for a minute, so it asks the new version for what only the old one gives."""
    config = read_config(mixed.repository, "ma_agiqa")
    key = read_key(mixed.grpc_url, mixed.log_file.with_suffix(".key"))
    with Scorer(mixed.grpc_url) as scorer, ModelControl(mixed.grpc_url, key) as control:
        assert scorer.score(gray(153)).interval is not None
        plain = ModelConfig()
        plain.CopyFrom(config)
        control.load("ma_agiqa", without_calibration(plain))
        score = scorer.score(gray(153))
        assert (score.mos, score.interval) == (pytest.approx(3), None)
        control.load("ma_agiqa", config)
        assert scorer.model().calibration is not None
        assert scorer.score(gray(153)).interval is not None
