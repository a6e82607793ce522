"""Which rows are shown."""

from ma_agiqa_client.cli._select import Selection, parse_grouping
from ma_agiqa_client.cli.rows import Row

ROWS = [
    Row("x/cat_1.png", 1.0),
    Row("x/dog_1.png", 3.0),
    Row("y/cat_2.png", 4.0),
    Row("x/broken.png", error="no"),
    Row("y/dog_2.png", 3.0),
    Row("y/owl.txt", 2.0),
]


def shown(**rules):
    selection = Selection(**rules)
    at_once = [row for each in ROWS for row in selection.take(each)]
    return at_once, list(selection.rest()), selection


def test_the_best_come_ranked_and_of_equal_ones_the_first():
    at_once, rest, selection = shown(top=2)
    assert at_once == []
    assert [row.image for row in rest] == ["y/cat_2.png", "x/dog_1.png"]
    assert selection.ranks


def test_the_best_two_of_each_prompt_and_what_matches_no_prompt():
    _, rest, selection = shown(grouping=parse_grouping(r"(cat|dog)_(\d)?"), top=2, min_mos=2)
    assert [row.group for row in rest] == ["dog/1", "cat/2", "dog/2"]
    _, rest, selection = shown(grouping=parse_grouping("cat|dog"), top=2)
    assert [(row.group, row.mos) for row in rest] == [
        ("cat", 4.0),
        ("cat", 1.0),
        ("dog", 3.0),
        ("dog", 3.0),
    ]
    assert selection.ungrouped == 1


def test_images_in_the_current_folder_have_a_parent_too():
    assert parse_grouping("parent")("cat.png") == "."
