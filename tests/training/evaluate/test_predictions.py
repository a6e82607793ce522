"""Predictions as a table: what is written is read, and what is wrong is named."""

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ma_agiqa.data import RatedImage
from ma_agiqa.errors import DataError
from ma_agiqa.evaluate.predictions import (
    COLUMNS,
    build_predictions,
    has_gates,
    read_predictions,
    write_predictions,
)


def rated(name, mos, prompt=None, generator=None, group=None):
    return RatedImage(name, Path(name), mos, group or name, 2, prompt, generator)


IMAGES = [
    rated("NA", 0.1 + 0.2, 'a "digital"\npainting, große Kunst', "LCM_Pixart"),
    rated("sub/b.png", 5.0, None, "null"),
    rated("c d.png", 0.965602553, "", None, "photograph 1"),
]
SCORES = np.array([1 / 3, 2.5, -1e-17], np.float64)
GATES = np.array([[0.1, 0.2, 0.3], [1, 0, 1 / 7], [0.5, 0.5, 0.5]], np.float32)


@pytest.mark.parametrize("gates", [GATES, None])
def test_reading_gives_back_exactly_what_was_written(tmp_path, gates):
    frame = build_predictions(IMAGES, SCORES, gates)
    path = write_predictions(frame, tmp_path / "new" / "folder" / "predictions.csv")
    again = read_predictions(path)
    pd.testing.assert_frame_equal(again, frame, check_exact=True)
    assert tuple(again) == COLUMNS
    assert again["image"].tolist() == ["NA", "sub/b.png", "c d.png"]
    assert again["generator"].tolist() == ["LCM_Pixart", "null", ""]
    assert again["group"].tolist() == ["", "", "photograph 1"]
    assert again["score"].tolist() == SCORES.tolist()
    assert has_gates(again) == (gates is not None)
    assert [file.name for file in path.parent.iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize(
    ("images", "scores", "gates", "message"),
    [
        (IMAGES, SCORES[:2], None, r"3 images, but scores of shape \(2,\)"),
        (IMAGES, SCORES[:, None], None, r"shape \(3, 1\)"),
        (IMAGES, SCORES, GATES[:, :2], r"gates of shape \(3, 2\)"),
        (IMAGES, [1.0, np.nan, 2.0], None, "score of sub/b.png is nan"),
        ([IMAGES[0], IMAGES[1], IMAGES[0]], SCORES, None, "NA was scored more than once"),
    ],
)
def test_what_cannot_be_a_table_of_predictions(images, scores, gates, message):
    with pytest.raises(DataError, match=message):
        build_predictions(images, scores, gates)


def test_three_columns_are_enough(tmp_path):
    path = tmp_path / "theirs.csv"
    text = "\ufeffscore,image,mos,note,prompt\n1.5, a.png ,2,x\n-3e2,b.png,4,y,\n"
    path.write_text(text, encoding="utf-8")  # with the mark that spreadsheets write first
    frame = read_predictions(path)
    assert tuple(frame) == COLUMNS
    assert frame["image"].tolist() == ["a.png", "b.png"]
    assert frame["score"].tolist() == [1.5, -300.0]
    assert frame["prompt"].tolist() == ["", ""]
    assert not has_gates(frame)


HEADER = "image,mos,score,gate_semantic,gate_coherence,gate_quality\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,score\na,1\n", r"no column \['mos'\]; its columns are \['image', 'score'\]"),
        ("image,mos,score\n", "a header but no rows"),
        ("", "not a CSV table"),
        ("image,mos,score\na,1,2,3\nb,1,2,3\n", "row 2: more values than the 3 columns"),
        ("image,mos,score\na,1,2\nb,1,2,3\n", "not a CSV table: .*line 3"),
        ("image,mos,score\na,1,2\nb,1\n", "row 3: score is ''"),
        ("image,mos,score\na,1,2\nb,3,nan\n", "row 3: score is 'nan'; expected a finite number"),
        ("image,mos,score\na,good,2\n", "row 2: mos is 'good'"),
        ("image,mos,score\na,1,2\n\nb,1,2\n", "row 3: the image has no name"),
        ("image,mos,score\na,1,2\nb,1,\n", "row 3: score is ''"),
        ("image,mos,score\na,1,2\nb,1,inf\n", "row 3: score is 'inf'"),
        ("image,mos,score\na,1,2\nb,1,2\na,1,2\n", "row 4: a is in row 2 already"),
        (HEADER + "a,1,2,,,\nb,1,2,0.5,,0.5\n", "row 3: only some of .* give all or none"),
        (HEADER + "a,1,2,0.5,x,0.5\n", "row 2: gate_coherence is 'x'"),
    ],
)
def test_errors_name_file_and_row(tmp_path, text, message):
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert "theirs.csv" in str(caught.value)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read .*none.csv: No such file"):
        read_predictions(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"image,mos,score\n\xff.png,1,2\n")
    with pytest.raises(DataError, match=r"latin.csv is not UTF-8: row 2"):
        read_predictions(tmp_path / "latin.csv")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_predictions(build_predictions(IMAGES, SCORES), tmp_path / "predictions.csv")
    before = path.read_bytes()

    def full(part, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"Cannot write .*predictions.csv: No space left on device"):
        write_predictions(build_predictions(IMAGES, SCORES + 1), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]
