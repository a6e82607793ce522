"""Tables of rated images."""

import pytest

from ma_agiqa.data import Columns, DataSettings, read_table
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
        ("image,mos\na.png,inf\n", r"row 2: the score is 'inf'"),
        ("image,mos\na.png,0_4\n", r"row 2: the score is '0_4'; expected a number"),
        ("image,mos\na.png,\u0664\n", "row 2: the score is '\u0664'"),
        ("image,mos\na.png,1\n\nb.png,2\n", r"row 3"),
        ("image,mos\na.png,1\nmissing.png,2\n", r"row 3: there is no file missing.png"),
        ("image,mos\na.png,1\nb.png,2\na.png,3\n", r"row 2: a.png is listed more than once"),
        ("image,mos\na.png,1\n./a.png,2\n", r"row 3: \./a\.png is listed more than once"),
        ("image,mos\na.png,1\nx/../a.png,2\n", "row 2: a.png is listed more than once"),
        ("image,mos\n,1\n", r"row 2: the image name is empty"),
        ("image,mos,mos\na.png,1,2\n", "has 2 columns 'mos'. Rename one"),
        ("image;mos\na.png;1\n", "semicolons between its values: its first line is 'image;mos'"),
        ("image;mos;prompt\na.png;1,5;a, b\n", "semicolons .* with points in its numbers"),
        ("image\tmos\na.png\t1\n", "seems to have tabs"),
        ("sep=,\nimage,mos\na.png,1\n", "begins with the line 'sep=,'"),
        ('image,mos\na.png,"1,5"\n', r"row 2: the score is '1,5', with a decimal comma.*as 1\.5"),
        ("image,mos,prompt\na.png,1,a\0b\n", "row 2: the text holds a null character"),
        ("file,score\na.png,1\n", r"no column \['image', 'mos'\].*\['file', 'score'\]"),
        ("image,mos\na.png,1,a prompt, with a comma\n", "row 2: more values than the 2 columns"),
        ("image,mos\na.png,1\nb.png,2,3\n", "line 3"),
        ("image,mos\n", "no rows"),
        ("", "not a CSV table"),
        ('image,mos,prompt\na.png,1,"no end\n', "not a CSV table"),
    ],
)
def test_errors_name_file_and_row(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, text))


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read .*none\.csv"):
        read_table(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("latin-1", "row 3 has a byte 0xE9. It is probably Latin-1 .*caf\xe9.* as UTF-8"),
        ("utf-16", "is UTF-16 text. Save it as UTF-8"),
        ("utf-16-le", "null character"),
    ],
)
def test_another_encoding_is_said(tmp_path, encoding, message):
    csv = write(tmp_path, "")
    csv.write_bytes("image,mos,prompt\na.png,1,a\nb.png,2,a caf\xe9\n".encode(encoding))
    with pytest.raises(DataError, match=message):
        read_table(csv)


def test_every_bad_row_is_listed_up_to_ten(tmp_path):
    rows = "".join(f"{i}.png,bad\n" for i in range(12))
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path, "image,mos\n" + rows, [f"{i}.png" for i in range(12)]))
    message = str(caught.value)
    assert "12 problems" in message
    assert message.count("the score is 'bad'") == 10
    assert "2 more" in message


def test_scores_on_another_scale_are_one_sentence_that_names_the_setting(tmp_path):
    csv = write(tmp_path, "image,mos\na.png,3\nb.png,96.5\nc.png,40\n")
    with pytest.raises(DataError) as caught:
        read_table(csv)
    assert str(caught.value) == (
        f"{csv}: 2 of 3 scores are outside data.mos_range (0 to 5), the first one in row 3 (96.5); "
        "the scores go from 3 to 96.5. Correct them, or set data.mos_range to the lowest and the "
        "highest possible score."
    )
    assert len(read_table(csv, mos_range=(0, 100))) == 3


@pytest.mark.parametrize("ends", [(5.0, 0.0), (2.0, 2.0), (0.0, float("nan")), (0, float("inf"))])
def test_an_impossible_range_is_refused(ends):
    with pytest.raises(ConfigError, match=r"data\.mos_range is .*; give the lowest"):
        DataSettings("x", "data.csv", mos_range=ends)


def test_rows_without_a_group_stand_alone(tmp_path):
    csv = write(tmp_path, "image,mos,scene\na.png,1,x\nb.png,2,\nc.png,3, \n")
    groups = [image.group for image in read_table(csv, columns=Columns(group="scene"))]
    assert groups == ["x", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("columns", "compared"),
    [
        (Columns(group="scene"), ["x", "x", "c.png"]),
        (Columns(group="scene", compared="picture"), ["1", "2", "c.png"]),
        (Columns(compared="picture"), ["1", "2", "c.png"]),
        (Columns(), ["a.png", "b.png", "c.png"]),
    ],
)
def test_what_a_ranking_compares(tmp_path, columns, compared):
    csv = write(tmp_path, "image,mos,scene,picture\na.png,1,x,1\nb.png,2,x,2\nc.png,3,,\n")
    assert [image.compared for image in read_table(csv, columns=columns)] == compared
    csv = write(tmp_path, "image,mos,scene\na.png,1,x\n")
    if columns.compared:
        with pytest.raises(DataError, match=r"no column .*picture"):
            read_table(csv, columns=columns)


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
