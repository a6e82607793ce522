"""Formats: what is written, when, and in which order."""

import csv
import io
import json

import pytest

from ma_agiqa_client.cli.output import FORMATS, format_of, make_writer, printable
from ma_agiqa_client.cli.rows import Row
from support.example_card import CARD
from support.scripted_server import GATE

LOW = Row("low.png", 10.0, 0.1, 10.0, GATE, "tiny")
BAD = Row("bad.png", error="Not a number.")


def written(name, rows, *, ranked=False, grouped=False, finish=True):
    file = io.StringIO()
    writer = make_writer(name, file, CARD, ranked=ranked, grouped=grouped)
    for row in rows:
        writer.add(row)
    if finish:
        writer.finish()
    return file.getvalue()


def test_csv_comes_at_once_and_in_order():
    rows = list(csv.DictReader(io.StringIO(written("csv", [LOW, BAD], finish=False))))
    assert [row["image"] for row in rows] == ["low.png", "bad.png"]
    assert (rows[0]["mos"], rows[0]["gate_quality"], rows[0]["error"]) == ("10.0", "0.5", "")
    assert (rows[1]["mos"], rows[1]["error"]) == ("", "Not a number.")
    assert "group" not in rows[0]


def test_json_of_nothing_is_a_list():
    assert json.loads(written("json", [])) == []


@pytest.mark.parametrize("name", FORMATS)
def test_groups_are_shown_if_images_are_grouped(name):
    row = Row("a.png", 1.0, 0.1, 1.0, GATE, "tiny", group="prompt 7")
    text = written(name, [row], ranked=True, grouped=True)
    assert "group" in text
    assert "prompt 7" in text


@pytest.mark.parametrize(
    ("path", "expected"),
    [(None, "table"), ("x.csv", "csv"), ("X.JSON", "json"), ("a.jsonl", "jsonl"), ("x", "table")],
)
def test_the_ending_of_the_file_asks_for_a_format(path, expected):
    assert format_of(path) == expected


def test_what_a_terminal_would_obey_is_replaced():
    assert printable("red\x1b[31m\n\udce9") == "red�[31m��"


@pytest.mark.parametrize("name", ["=1+1.png", "+a.png", "-a.png", "@a.png", "\tb.png"])
def test_no_cell_of_a_csv_is_a_formula(name):
    file = io.StringIO()
    make_writer("csv", file, CARD, ranked=False, grouped=False).add(Row(name, 1.0, 0.1, 1.0, GATE))
    assert file.getvalue().splitlines()[1].lstrip('"').startswith(f"./{name}")


def test_a_carriage_return_in_a_name_does_not_split_the_row():
    file = io.StringIO()
    make_writer("csv", file, CARD, ranked=False, grouped=False).add(Row("a\rb.png", error="no"))
    rows = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert [row[0] for row in rows] == ["image", "a\rb.png"]
