"""Heatmaps: where they go, what they show, and what cannot be drawn."""

import numpy as np
import pytest
from PIL import Image

from ma_agiqa_client.cli.maps import COLORS, MapFolder, draw_map, fitting
from ma_agiqa_client.cli.rows import Row
from support.scripted_server import GATE

HALVES = np.array([[0, 2], [0, 2]], np.float32)


def row(image):
    return Row(image, 1.0, 0.1, 1.0, GATE, "tiny", map=HALVES)


def test_the_map_lies_over_the_right_part_of_the_picture():
    gray = Image.new("RGB", (200, 100), (128, 128, 128))
    sheet = np.asarray(draw_map(gray, HALVES, "title"))
    np.testing.assert_array_equal(sheet[12:112, 12:212], 128)  # the picture itself
    over = sheet[12:112, 224:424].astype(float)
    assert over[:, 150:].mean() > over[:, :50].mean() + 80
    np.testing.assert_allclose(over[50, 5], 0.6 * np.array(COLORS[0]) + 0.4 * 128, atol=3)
    np.testing.assert_allclose(over[50, 195], 0.6 * np.array(COLORS[-1]) + 0.4 * 128, atol=3)


def test_the_legend_says_something_below_the_picture():
    gray = Image.new("RGB", (200, 100), (128, 128, 128))
    legend = np.asarray(draw_map(gray, HALVES, "title"))[124:]
    assert (legend.min(axis=2) < 100).sum() > 200  # ink
    assert (np.abs(legend - np.array(COLORS[2])).sum(axis=2) < 12).any()  # the scale's middle


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_map_without_differences_is_drawn(value):
    flat = np.full((2, 2), value, np.float32)
    assert draw_map(Image.new("RGB", (20, 10)), flat, "a long title for a small picture").width > 20


def test_maps_go_under_the_images_own_path(tmp_path):
    folder = MapFolder(str(tmp_path))
    paths = ["imgs/a.png", "imgs/a.jpg", "other/a.png", "/abs/a.png", "../a.png", "./x/../a.png"]
    targets = [folder.path(path).relative_to(tmp_path).as_posix() for path in paths]
    assert targets[0] == "imgs/a.png.map.jpg"
    assert targets[4] == "__/a.png.map.jpg"
    assert len(set(targets)) == len(paths)
    assert all(".." not in target.split("/") for target in targets)


def test_maps_are_written_and_what_cannot_be_drawn_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 32), "red").save("a.png")
    (tmp_path / "b.png").write_bytes(b"text")
    folder = MapFolder("maps")
    for image in ("a.png", "b.png"):
        folder.add(row(image))
    folder.add(Row("c.png", error="no"))
    with Image.open("maps/a.png.map.jpg") as sheet:
        assert sheet.width == 2 * 64 + 36
    assert [image for image, _ in folder.failures] == ["b.png"]
    assert len(list((tmp_path / "maps").iterdir())) == 1


def test_a_name_that_is_too_long_is_cut_but_stays_unique():
    names = [fitting("\N{CAT FACE}" * 80 + letter, ".map.jpg") for letter in "ab"]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 255 and name.endswith(".map.jpg") for name in names)
    assert fitting("a.png", ".map.jpg") == "a.png.map.jpg"
