"""Files and folders are written whole or not at all."""

import pytest

from ma_agiqa.errors import DataError
from ma_agiqa.files import replace_folder, write_whole


@pytest.mark.parametrize("content", ["a\nµ\n", b"\x00\xff"])
def test_a_file_is_replaced_and_its_folder_made(tmp_path, content):
    path = tmp_path / "new" / "file"
    for wanted in ("before", content):
        assert write_whole(path, wanted) == path
    expected = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == expected
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="Cannot write"):
        write_whole(tmp_path / "file" / "below", "text")


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr("ma_agiqa.files._exchange", lambda *_: False)
    folder = tmp_path / "new" / "folder"
    for name in ("first", "second"):
        with replace_folder(folder) as part:
            (part / name).touch()
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_error_leaves_the_folder_as_it_was(tmp_path):
    with replace_folder(tmp_path / "folder") as part:
        (part / "first").touch()
    with pytest.raises(FileNotFoundError), replace_folder(tmp_path / "folder") as part:
        (part / "second" / "third").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["first"]
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_at_every_moment_there_is_a_folder(tmp_path, monkeypatch):
    """The exchange is the one step that changes the folder's name."""
    folder = tmp_path / "folder"
    with replace_folder(folder) as part:
        (part / "first").touch()
    monkeypatch.setattr("os.replace", lambda *_: pytest.fail("not in one step"))
    with replace_folder(folder) as part:
        (part / "second").touch()
    assert [path.name for path in folder.iterdir()] == ["second"]
