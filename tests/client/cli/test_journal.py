"""The file of finished scores: what it keeps, what it repairs, what it refuses."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ma_agiqa_client.card import Calibration
from ma_agiqa_client.cli._journal import Journal, JournalError, stamp
from ma_agiqa_client.cli.rows import Row
from ma_agiqa_client.score import Interval
from support.example_card import CARD
from support.scripted_server import GATE


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    return ["a.png", "b.png", "c.png"]


def row(image, **changes):
    return replace(Row(image, 7.0, 0.07, 7.0, GATE, "tiny"), **changes)


def fill(images, path="done.jsonl", **changes):
    with Journal(path, CARD) as journal:
        for image in images:
            journal.add(row(image, **changes), stamp(image))


def test_a_path_written_otherwise_is_the_same_image(images):
    fill(images)
    with Journal("done.jsonl", CARD) as journal:
        assert journal.find(os.path.abspath("a.png")) == row("a.png")


def test_it_can_be_used_from_another_folder(images, monkeypatch):
    os.mkdir("other")
    Path("other/a.png").write_bytes(b"alike")
    fill(images)
    os.utime("other/a.png", ns=(1, stamp("a.png")[1]))
    monkeypatch.chdir("other")
    with Journal("../done.jsonl", CARD) as journal:
        assert stamp("a.png") == stamp("../a.png")
        assert journal.find("a.png") is None
        assert journal.find("../a.png") == row("a.png")


def test_lines_of_an_earlier_version_have_no_absolute_path(images):
    fill(images)
    lines = [json.loads(line) for line in Path("done.jsonl").read_text().splitlines()]
    Path("done.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in one.items() if k != "path"}) + "\n" for one in lines)
    )
    with Journal("done.jsonl", CARD) as journal:
        assert journal.find("a.png") == row("a.png")


def test_a_changed_image_is_not_done(images):
    fill(images)
    with open("a.png", "ab") as file:
        file.write(b"more")
    os.utime("b.png", ns=(1, 1))
    os.remove("c.png")
    with Journal("done.jsonl", CARD) as journal:
        assert [journal.find(image) for image in images] == [None, None, None]


def test_intervals_of_another_calibration_are_not_kept(images):
    """The weights are the same, so that the rest of the file may stay."""
    worth = {"deviation": 0.5, "familiarity": 0.5}
    fill(images, interval=Interval(6.0, 8.0), **worth)
    calibrated = replace(CARD, calibration=Calibration(0.9, 2.0, {}, (0.0,), 0.02, {}))
    with Journal("done.jsonl", calibrated) as journal:
        assert journal.find("a.png") is None
        journal.add(row("a.png", interval=Interval(5.0, 9.0), **worth), stamp("a.png"))
    with Journal("done.jsonl", calibrated) as journal:
        assert journal.find("a.png").interval == Interval(5.0, 9.0)


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_cut_off_last_line_is_removed(images, cut):
    fill(images[:2])
    whole = Path("done.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    with open("done.jsonl", "wb") as file:
        file.write(whole[: max(first + 1, len(whole) - cut)])
    fill(images[1:2])
    assert Path("done.jsonl").read_bytes() == whole


LINES = [b"notes\n", b"{}\n", b"[1]\n", b'"x"\n', b"\0\0\n", b"1\n"]
WITHOUT_A_LINE_END = [b'{"a":1}', b"token", b"[", b"\0"]


@pytest.mark.parametrize("content", [*LINES, *WITHOUT_A_LINE_END])
def test_another_file_is_refused_and_left_alone(images, content):
    fill(images[:1])
    with open("done.jsonl", "ab") as file:
        file.write(content)
    before = Path("done.jsonl").read_bytes()
    reason = "it does not begin like one" if content in WITHOUT_A_LINE_END else ""
    said = rf"Line 2 of done\.jsonl is not a finished score \({reason}"
    with pytest.raises(JournalError, match=said):
        Journal("done.jsonl", CARD)
    assert Path("done.jsonl").read_bytes() == before


@pytest.mark.parametrize("content", [b"\0", b"x"])
def test_a_large_file_without_lines_is_refused_and_left_alone(images, content):
    with open("done.jsonl", "wb") as file:
        file.write(content * (2 << 20))
    with pytest.raises(JournalError, match="more than"):
        Journal("done.jsonl", CARD)
    assert os.path.getsize("done.jsonl") == 2 << 20


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_a_device_is_refused():
    with pytest.raises(JournalError, match="not a regular file"):
        Journal("/dev/zero", CARD)


@pytest.mark.usefixtures("images")
def test_two_runs_cannot_share_it():
    """The lock belongs to the open file, so a second file of this process cannot have it either."""
    with Journal("done.jsonl", CARD), pytest.raises(JournalError, match="in use by another run"):
        Journal("done.jsonl", CARD)
    with Journal("done.jsonl", CARD):
        pass


def test_rows_without_maps_are_not_done_if_maps_are_asked_for(images):
    values = np.full((2, 2), 0.5, np.float32)
    fill(images[:2])
    with Journal("done.jsonl", CARD) as journal:
        journal.add(row("b.png", map=values), stamp("b.png"))
    with Journal("done.jsonl", CARD, maps=True) as journal:
        assert journal.find("a.png") is None
        assert journal.find("b.png").map.tolist() == values.tolist()
    with Journal("done.jsonl", CARD) as journal:
        assert journal.find("a.png") == row("a.png")


def test_a_name_that_is_not_text_survives(images):
    fill(images)
    name = "caf\udce9.png"
    with open(name, "wb") as file:
        file.write(b"x")
    fill([name])
    with Journal("done.jsonl", CARD) as journal:
        assert journal.find(name) == row(name)
