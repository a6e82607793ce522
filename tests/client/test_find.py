"""Which files of the arguments are scored."""

import os

import pytest

from ma_agiqa_client._find import find_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    names = "b.png a.JPG sub/c.webp sub/deep/d.tiff notes.txt data .hidden.png .cache/e.png"
    for name in names.split():
        (tmp_path / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "imgs" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "imgs"


@pytest.mark.usefixtures("folder")
def test_folders_are_searched_in_order():
    expected = ["imgs/a.JPG", "imgs/b.png", "imgs/sub/c.webp", "imgs/sub/deep/d.tiff"]
    assert find_images(["imgs"]).images == expected


@pytest.mark.usefixtures("folder")
def test_a_file_named_explicitly_counts_whatever_its_name():
    named = ["imgs/data", "imgs/.hidden.png"]
    assert find_images(named).images == named


def test_each_file_counts_once(folder):
    paths = ["imgs/b.png", "imgs", str(folder / "a.JPG"), "imgs/../imgs/b.png"]
    assert len(find_images(paths).images) == 4


def test_a_folder_that_cannot_be_read_is_reported(folder, monkeypatch):
    scandir = os.scandir  # permissions do not stop root, who may run this

    def refusing(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = find_images(["imgs"])
    assert len(found.images) == 3
    assert found.problems == [("imgs/sub/deep", "The folder cannot be read: Permission denied.")]
