"""Intervals, familiarity and comparisons through the real server; the networks are stand-ins."""

import asyncio
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa_client import AsyncScorer, Interval, ModelCard, Score, WrongModelError
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


def test_a_score_comes_with_its_interval_and_familiarity(scorer):
    check(scorer.score(gray(153)), scorer.model())
    assert not scorer.model().calibration.is_familiar(scorer.score(gray(5)))


def test_two_images_are_compared(scorer):
    clear = scorer.compare(gray(204), gray(51))
    assert clear.better == "a"
    assert clear.probability == 1
    assert (clear.a.mos, clear.b.mos) == pytest.approx((4, 1))
    tie = scorer.compare(gray(150), gray(153))
    assert tie.is_tie
    assert 0.25 < tie.probability < 0.5
    assert scorer.compare(gray(150), gray(150)).probability == 0.5


def test_ranking_says_whether_the_best_is_distinguishable(scorer):
    ranked = scorer.rank([gray(51), gray(202), gray(204)])
    assert [one.index for one in ranked] == [2, 1, 0]
    assert ranked[0].lead < 0.75 < ranked[1].lead
    assert scorer.rank([gray(204), gray(202)], top=1)[0].lead == ranked[0].lead


def test_the_same_from_an_event_loop(stand_in):
    async def ask() -> None:
        async with AsyncScorer(stand_in.grpc_url) as scorer:
            check(await scorer.score(gray(153)), await scorer.model())
            assert (await scorer.compare(gray(204), gray(51))).better == "a"
            ranked = await scorer.rank([gray(51), gray(202), gray(204)])
            assert ranked[0].lead < 0.75 < ranked[1].lead

    asyncio.run(ask())


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


def test_a_version_that_is_not_calibrated_says_so(server):
    from ma_agiqa_client import Scorer

    with Scorer(server.grpc_url) as scorer:
        score = scorer.score(gray(100))
        if scorer.model().calibration is not None:
            assert score.interval.low <= score.mos <= score.interval.high
            return
        assert (score.interval, score.familiarity) == (None, None)
        with pytest.raises(WrongModelError, match="was not calibrated"):
            scorer.compare(gray(100), gray(200))
