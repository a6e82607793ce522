"""Tables of rated images and their split."""

import pytest

from ma_agiqa.datasets import Columns, RatedImage, read_table, split_by_group
from ma_agiqa.errors import ConfigError, DataError


def write(folder, text, names=("a.png", "b.png", "c.png")):
    (folder / "images").mkdir(exist_ok=True)
    for name in names:
        (folder / "images" / name).write_bytes(b"only its presence counts here")
    (folder / "data.csv").write_text(text)
    return folder / "data.csv"


def rated(count, per_group=1, path=None):
    return [RatedImage(f"{i}.png", path, 1.0, f"g{i // per_group}") for i in range(count)]


def test_reads_names_scores_and_groups(tmp_path):
    csv = write(tmp_path, "image,mos,source,extra\na.png,1.5,x,?\nb.png,0,y,?\nc.png,5,x,?\n")
    images = read_table(csv, columns=Columns(group="source"))
    assert [(i.name, i.mos, i.group) for i in images] == [
        ("a.png", 1.5, "x"),
        ("b.png", 0.0, "y"),
        ("c.png", 5.0, "x"),
    ]
    assert images[0].path == tmp_path / "images" / "a.png"


def test_other_column_names_and_folder_and_no_groups(tmp_path):
    csv = write(tmp_path, "name,mos_quality\na.png,3\nb.png,4\n")
    images = read_table(csv, tmp_path / "images", Columns(image="name", mos="mos_quality"))
    assert [image.group for image in images] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mos\na.png,good\n", r"data.csv, row 2: the score is 'good'"),
        ("image,mos\na.png,1\nb.png,nan\n", r"row 3: the score is 'nan'"),
        ("image,mos\na.png,\n", r"row 2: the score is ''"),
        ("image,mos\na.png,5.1\n", r"row 2: the score is '5.1'.*0.0..5.0"),
        ("image,mos\na.png,inf\n", r"row 2: the score is 'inf'"),
        ("image,mos\na.png,1\n\nb.png,2\n", r"row 3"),
        ("image,mos\na.png,1\nmissing.png,2\n", r"row 3: there is no file missing.png"),
        ("image,mos\na.png,1\nb.png,2\na.png,3\n", r"row 2: a.png is listed more than once"),
        ("image,mos\n,1\n", r"row 2: the image name is empty"),
        ("file,score\na.png,1\n", r"no column \['image', 'mos'\].*\['file', 'score'\]"),
        ("image,mos\n", "no rows"),
        ("", "not a CSV table"),
    ],
)
def test_errors_name_file_and_row(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, text))


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read the table .*none\.csv"):
        read_table(tmp_path / "none.csv")


def test_no_group_is_in_two_parts_and_nothing_is_lost():
    images = rated(500, per_group=5)
    split = split_by_group(images, seed=1)
    groups = {part: {image.group for image in members} for part, members in split.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["validation"]
    assert not groups["validation"] & groups["test"]
    assert sorted(name for name, _ in split.rows()) == sorted(image.name for image in images)
    assert {part: len(found) for part, found in groups.items()} == {
        "train": 70,
        "validation": 10,
        "test": 20,
    }


def test_the_split_follows_its_seed_and_not_the_order_of_rows():
    images = rated(100)
    first = split_by_group(images, seed=1)
    assert dict(first.rows()) == dict(split_by_group(images[::-1], seed=1).rows())
    assert first.sha256() == split_by_group(images, seed=1).sha256()
    assert first.sha256() != split_by_group(images, seed=2).sha256()


def test_impossible_splits_are_errors():
    with pytest.raises(DataError, match=r"\['validation'\] empty"):
        split_by_group(rated(4), seed=0)
    with pytest.raises(ConfigError, match="sum below 1"):
        split_by_group(rated(10), seed=0, validation=0.5, test=0.5)
