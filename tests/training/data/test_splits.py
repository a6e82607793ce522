"""Splits: the paper's by hash, the others by what they promise."""

import csv
import hashlib
import json
import random
from pathlib import Path

import pytest

from ma_agiqa.data import PARTS, RatedImage, SplitSettings, make_split, split_from_file
from ma_agiqa.errors import ConfigError, DataError
from support.reference import GOLDEN

PAPER = json.loads((GOLDEN / "splits.json").read_text())


def rated(count, per_group=1, prompts=None):
    return [
        RatedImage(
            f"{i}.png", Path(), 1.0, f"g{i // per_group}", i + 2, prompts[i] if prompts else None
        )
        for i in range(count)
    ]


def agiqa_3k():
    with open(GOLDEN / "agiqa_3k.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [RatedImage(r["name"], Path(), 1.0, r["name"], 2, r["prompt"]) for r in rows]


def aigcqa_20k():
    names = (GOLDEN / "aigcqa_20k_names.txt").read_text().splitlines()
    return [RatedImage(name, Path(), 1.0, name) for name in names]


def groups_by_part(split, of):
    return {part: {of(image) for image in members} for part, members in split.items()}


@pytest.mark.parametrize(
    ("images", "expected"),
    [(agiqa_3k, PAPER["AGIQA_3k"]), (aigcqa_20k, PAPER["AIGCQA_20k"])],
)
def test_the_papers_split_is_the_papers(images, expected):
    split = make_split(images(), SplitSettings("paper", seed=expected["seed"]))
    for part, members in split.items():
        names = [image.name for image in members]
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        assert len(names) == expected[part]
        assert names[:3] == expected["first3"][part]
        assert digest == expected["sha256_of_names_joined_by_newline"][part]


@pytest.mark.parametrize("count", [*range(10, 120), 4968, 14000])
def test_any_number_of_rows_is_cut_as_by_the_authors(count):
    rows = list(range(count))
    random.Random(20).shuffle(rows)
    first, second = int(0.7 * count), int(0.8 * count)
    split = make_split(rated(count), SplitSettings("paper", seed=20))
    for part, expected in zip(
        PARTS, (rows[:first], rows[first:second], rows[second:]), strict=True
    ):
        assert [image.row - 2 for image in getattr(split, part)] == expected


def test_the_papers_split_shares_prompts_and_the_disjoint_one_does_not():
    images = agiqa_3k()
    paper = make_split(images, SplitSettings("paper"))
    prompts = groups_by_part(paper, lambda image: image.prompt)
    assert prompts["test"] <= prompts["train"]
    split = make_split(images, SplitSettings("prompt-disjoint"))
    prompts = groups_by_part(split, lambda image: image.prompt)
    assert sum(map(len, prompts.values())) == len(set.union(*prompts.values()))
    assert sorted(name for name, _ in split.rows()) == sorted(image.name for image in images)
    assert {part: len(found) for part, found in prompts.items()} == {
        "train": 210,
        "validation": 30,
        "test": 60,
    }


def test_no_group_is_in_two_parts_and_nothing_is_lost():
    images = rated(500, per_group=5)
    split = make_split(images, SplitSettings("group-disjoint", seed=1))
    groups = groups_by_part(split, lambda image: image.group)
    assert sorted(name for name, _ in split.rows()) == sorted(image.name for image in images)
    assert {part: len(found) for part, found in groups.items()} == {
        "train": 70,
        "validation": 10,
        "test": 20,
    }
    assert sum(map(len, groups.values())) == 100


def test_the_split_follows_its_seed_and_not_the_order_of_rows():
    images, settings = rated(100, per_group=2), SplitSettings("group-disjoint", seed=1)
    first = make_split(images, settings)
    assert dict(first.rows()) == dict(make_split(images[::-1], settings).rows())
    assert first.sha256() == make_split(images, settings).sha256()
    other = make_split(images, SplitSettings("group-disjoint", seed=2))
    assert first.sha256() != other.sha256()


def test_folds_test_every_image_once():
    images = rated(103, per_group=2)
    splits = [make_split(images, SplitSettings("k-fold", folds=5, fold=i)) for i in range(5)]
    tested = [image.name for split in splits for image in split.test]
    assert sorted(tested) == sorted(image.name for image in images)
    for split in splits:
        groups = groups_by_part(split, lambda image: image.group)
        assert sum(map(len, groups.values())) == 52
        assert 4 <= len(groups["validation"]) <= 6
        assert 10 <= len(groups["test"]) <= 11


def test_a_saved_split_comes_back(tmp_path):
    images = rated(50)
    split = make_split(images, SplitSettings("paper", seed=3))
    path = tmp_path / "split.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("image", "part"), *split.rows()])
    again = make_split(images, SplitSettings("file", file=str(path)))
    assert again.sha256() == split.sha256()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,part\n0.png,train\n1.png,test\n", r"no part to 1 images.*2\.png \(row 4\)"),
        (
            "image,part\n0.png,train\n1.png,test\n2.png,test\n9.png,test\n",
            r"1 images that are not in the data set.s table, such as 9\.png",
        ),
        ("image,part\n0.png,dev\n", r"row 2: the part is 'dev'; expected one of"),
        ("image,part\n0.png,test\n0.png,train\n", "row 3: 0.png is listed more than once"),
        ("image,part\n0.png,train\n1.png,test\n2.png,test\n", "no image to the validation part"),
        ("name,kind\n0.png,train\n", "needs the columns image and part"),
        ("", "not a CSV table"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(tmp_path, text, message):
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        split_from_file(rated(3), path)


def test_impossible_splits_are_errors():
    for images, kind, message in (
        (rated(3), "paper", r"the validation part empty: 3 images .* split\.validation \(0\.1\)"),
        (rated(9, per_group=9), "group-disjoint", r"empty: 1 groups \(data\.columns\.group\) are"),
        (rated(9), "group-disjoint", r"no two images are of one\. Name the column"),
        (rated(9, per_group=9), "k-fold", r"empty: 1 groups .* Change split\.validation"),
        (rated(3, prompts=["a", "A", "a"]), "prompt-disjoint", "empty: 1 prompts are too few"),
    ):
        with pytest.raises(DataError, match=message):
            make_split(images, SplitSettings(kind))
    with pytest.raises(DataError, match=r"needs the prompt.*3 have none, such as 0\.png \(row 2\)"):
        make_split(rated(3), SplitSettings("prompt-disjoint"))
    with pytest.raises(DataError, match=r"Cannot read none\.csv"):
        make_split(rated(3), SplitSettings("file", file="none.csv"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "random"}, "choose one of"),
        ({"kind": "paper", "validation": 0.5, "test": 0.5}, "sum below 1"),
        ({"kind": "k-fold", "folds": 5, "fold": 5}, "fold is 5 of 5"),
        ({"kind": "file"}, "split.file"),
        ({"kind": "paper", "file": "a.csv"}, "split.file"),
    ],
)
def test_impossible_settings_are_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        SplitSettings(**settings)


def test_every_part_has_a_name():
    assert PARTS == ("train", "validation", "test")
