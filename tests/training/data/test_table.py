"""Tables of rated images."""

import pytest

from ma_agiqa.data import Columns, read_table
from ma_agiqa.errors import ConfigError, DataError


def write(folder, text, names=("a.png", "b.png", "c.png")):
    (folder / "images").mkdir(exist_ok=True)
    for name in names:
        (folder / "images" / name).write_bytes(b"only its presence counts here")
    (folder / "data.csv").write_text(text)
    return folder / "data.csv"


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
        ("image,mos\na.png,good\n", r"data.csv: row 2: the score is 'good'"),
        ("image,mos\na.png,1\nb.png,nan\n", r"row 3: the score is 'nan'"),
        ("image,mos\na.png,\n", r"row 2: the score is ''"),
        ("image,mos\na.png,5.1\n", r"row 2: the score is '5.1'.*0.0..5.0"),
        ("image,mos\na.png,inf\n", r"row 2: the score is 'inf'"),
        ("image,mos\na.png,1\n\nb.png,2\n", r"row 3"),
        ("image,mos\na.png,1\nmissing.png,2\n", r"row 3: there is no file missing.png"),
        ("image,mos\na.png,1\nb.png,2\na.png,3\n", r"row 2: a.png is listed more than once"),
        ("image,mos\n,1\n", r"row 2: the image name is empty"),
        ("file,score\na.png,1\n", r"no column \['image', 'mos'\].*\['file', 'score'\]"),
        ("image,mos\na.png,1,a prompt, with a comma\n", "row 2: more values than the 2 columns"),
        ("image,mos\na.png,1\nb.png,2,3\n", "line 3"),
        ("image,mos\n", "no rows"),
        ("", "not a CSV table"),
    ],
)
def test_errors_name_file_and_row(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, text))


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read .*none\.csv"):
        read_table(tmp_path / "none.csv")


def test_every_bad_row_is_listed_up_to_ten(tmp_path):
    rows = "".join(f"{i}.png,9\n" for i in range(12))
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path, "image,mos\n" + rows, [f"{i}.png" for i in range(12)]))
    message = str(caught.value)
    assert "12 problems" in message
    assert message.count("the score is '9'") == 10
    assert "2 more" in message


def test_rows_prompts_and_generators(tmp_path):
    text = "image,mos,prompt,model\na.png,1,a cat,SDXL\nb.png,2,,\nc.png,3, a dog ,IF\n"
    images = read_table(write(tmp_path, text))
    assert [(i.row, i.prompt, i.generator) for i in images] == [
        (2, "a cat", "SDXL"),
        (3, None, None),
        (4, "a dog", "IF"),
    ]


def test_the_generator_can_come_from_the_name(tmp_path):
    names = ["LCM_SD1.5_0001.png", "DALLE2_0002.png", "c.png"]
    text = "image,mos\n" + "".join(f"{name},1\n" for name in names)
    csv = write(tmp_path, text, names)
    images = read_table(csv, generator_pattern="^(.+)_[0-9]+[.]")
    assert [i.generator for i in images] == ["LCM_SD1.5", "DALLE2", None]
    with pytest.raises(ConfigError, match="no group"):
        read_table(csv, generator_pattern="^.+_")
    with pytest.raises(ConfigError, match="no regular expression"):
        read_table(csv, generator_pattern="(")


def test_a_prompt_column_that_was_named_must_be_there(tmp_path):
    csv = write(tmp_path, "image,mos\na.png,1\n")
    assert read_table(csv)[0].prompt is None
    with pytest.raises(DataError, match=r"no column \['caption'\]"):
        read_table(csv, columns=Columns(prompt="caption"))


def test_a_table_that_a_spreadsheet_saved_with_a_byte_order_mark(tmp_path):
    csv = write(tmp_path, "\ufeffimage,mos\na.png,1\n")
    assert read_table(csv)[0].name == "a.png"
