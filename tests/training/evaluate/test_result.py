"""Intervals of the scores, fifths of MOS, and two scorers on the same images."""

import numpy as np
import pandas as pd
import pytest

from ma_agiqa.evaluate import Result, report
from ma_agiqa.evaluate.measurement import measure, measure_fifths
from ma_agiqa.evaluate.predictions import COLUMNS, read_predictions
from ma_agiqa.evaluate.report import write_report
from ma_agiqa.evaluate.result import paired_differences
from ma_agiqa.metrics.intervals import bootstrap_difference


def predictions(error: float, seed: int, half: float | None = None) -> pd.DataFrame:
    """200 images of 40 prompts and two generators, of which b is scored with twice the error."""
    rng = np.random.default_rng(0)
    mos = rng.uniform(0, 5, 200)
    twice = np.arange(200) % 2 + 1
    score = mos + error * twice * np.random.default_rng(seed).standard_normal(200)
    half = np.nan if half is None else half
    values = {
        "image": [f"{number}.png" for number in range(200)],
        "mos": mos,
        "score": score,
        "prompt": [f"prompt {number // 5}" for number in range(200)],
        "generator": np.where(twice == 1, "a", "b"),
        "interval_low": score - half,
        "interval_high": score + half,
    }
    return pd.DataFrame(values).reindex(columns=list(COLUMNS))


def result(name: str, *arguments: float) -> Result:
    return Result.of(name, predictions(*arguments), resamples=50)


def test_coverage_and_width_are_measured_overall_and_by_generator():
    found = result("ours", 0.5, 1, 1.0)
    share = {group.name: group.measurement.coverage.share for group in found.generators}
    assert share["a"] == pytest.approx(0.954, abs=0.06)  # within 2 sigma; of 100: 2.1 % (one sigma)
    assert share["b"] == pytest.approx(0.683, abs=0.14)  # within 1 sigma
    overall = found.overall.coverage
    assert overall.share == pytest.approx((share["a"] + share["b"]) / 2)
    assert overall.width == pytest.approx(2.0)
    assert found.to_dict()["coverage"] == {"share": overall.share, "width": overall.width}


def test_fifths_have_equally_many_images_by_mos():
    frame = predictions(0.5, 1, 1.0)
    fifths = measure_fifths(frame)
    assert [fifth.count for fifth in fifths] == [40] * 5
    means = [fifth.coverage.share for fifth in fifths]
    inside = frame["mos"].between(frame["interval_low"], frame["interval_high"])
    assert np.mean(means) == pytest.approx(inside.mean())
    assert fifths[0].mos.startswith(f"{frame['mos'].min():.2f} to ")
    squares = np.mean([fifth.errors["rmse_raw"] ** 2 for fifth in fifths])
    assert squares == pytest.approx(np.mean((frame["score"] - frame["mos"]) ** 2))
    assert measure_fifths(frame.head(24)) == ()


def test_a_scorer_that_is_better_on_the_same_images_is_seen_to_be():
    good, bad, again = (result(*what) for what in (("g", 0.4, 1), ("b", 0.7, 2), ("a", 0.4, 3)))
    found = paired_differences([good, bad, again])
    assert found["b"]["rmse_raw"][0] > 0
    assert found["b"]["rmse_raw"][1].low > 0
    assert found["b"]["srcc"][1].high < 0
    equal = found["a"]["rmse_raw"][1]
    assert equal.low < 0 < equal.high
    other = Result.of("c", good.frame.head(100), resamples=20)
    rated = Result.of("d", good.frame.assign(mos=bad.frame["mos"] + 0.1), resamples=20)
    assert paired_differences([good, other, rated]) == {}


def test_images_of_one_group_are_no_independent_evidence():
    """Of 200 images 20 groups have an error each; resamples of images would not see it."""
    frame = predictions(0.0, 1).assign(prompt="", group=[f"{n // 10}" for n in range(200)])
    frame["score"] += np.repeat(np.random.default_rng(2).standard_normal(20), 10)
    width = {}
    for name, group in (("groups", frame["group"]), ("images", "")):
        ends = measure(frame.assign(group=group), resamples=200).intervals.rmse
        width[name] = ends.high - ends.low
    assert width["groups"] > 2 * width["images"]


def test_the_difference_is_that_of_the_two_numbers():
    frame, other = predictions(0.4, 1), predictions(0.7, 2)["score"]
    found = bootstrap_difference(frame["mos"], frame["score"], other, resamples=20)
    first, second = (np.sqrt(np.mean((s - frame["mos"]) ** 2)) for s in (frame["score"], other))
    assert found["rmse_raw"][0] == pytest.approx(second - first)


def test_the_report_shows_all_of_it_and_the_files_keep_it(tmp_path):
    results = [result("ours", 0.5, 1, 1.0), result("theirs", 0.6, 2)]
    text = report(results)
    assert "## By fifths of MOS" in text
    assert "## Paired differences" in text
    assert "theirs - ours" in text
    assert text.count("coverage") >= 2
    write_report(results, tmp_path)
    kept = read_predictions(tmp_path / "predictions-ours.csv")
    pd.testing.assert_series_equal(kept["interval_low"], results[0].frame["interval_low"])
