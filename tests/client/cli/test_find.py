"""Which files of the arguments are scored."""

import os

import pytest

from ma_agiqa_client.cli._find import Found, Listing, expand, split_list


@pytest.fixture
def folder(tmp_path, monkeypatch):
    names = "b.png a.JPG sub/c.webp sub/deep/d.tiff notes.txt data .hidden.png .cache/e.png"
    for name in names.split():
        (tmp_path / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "imgs" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "imgs"


def images(*paths, recursive=True):
    return [found.path for found in Listing(paths, recursive)]


@pytest.mark.usefixtures("folder")
def test_folders_are_searched_in_order():
    expected = ["imgs/a.JPG", "imgs/b.png", "imgs/sub/c.webp", "imgs/sub/deep/d.tiff"]
    listing = Listing(["imgs"])
    assert [found.path for found in listing] == expected
    assert [found.path for found in listing] == expected  # again


@pytest.mark.usefixtures("folder")
def test_subfolders_can_be_left_out():
    assert images("imgs", recursive=False) == ["imgs/a.JPG", "imgs/b.png"]


@pytest.mark.usefixtures("folder")
def test_a_file_named_explicitly_counts_whatever_its_name():
    named = ["imgs/data", "imgs/.hidden.png"]
    assert images(*named) == named


def test_each_file_counts_once(folder):
    assert len(images("imgs/b.png", "imgs", str(folder / "a.JPG"), "imgs/../imgs/b.png")) == 4


@pytest.mark.usefixtures("folder")
def test_a_file_that_a_folder_passes_over_still_counts_beside_it():
    assert images("imgs", "imgs/.cache/e.png")[-1] == "imgs/.cache/e.png"


def test_a_folder_that_cannot_be_read_is_reported(folder, monkeypatch):
    scandir = os.scandir  # permissions do not stop root, who may run this

    def refusing(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list(Listing(["imgs"]))
    assert len(found) == 4
    assert found[-1] == Found("imgs/sub/deep", "The folder cannot be read: Permission denied.")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("imgs", ["imgs"]),
        ("imgs/*.png", ["imgs/b.png"]),
        ("imgs/**/*.[tw]*", ["imgs/sub/c.webp", "imgs/sub/deep/d.tiff"]),
    ],
)
def test_globs_are_expanded(argument, expected):
    assert [path for path in expand(argument) if "notes" not in path] == expected


def test_a_name_that_looks_like_a_glob_is_a_name_if_it_exists(folder):
    (folder / "[b].png").touch()
    assert expand("imgs/[b].png") == ["imgs/[b].png"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("argument", "reason"), [("absent", "does not exist"), ("imgs/*.xyz", "matches no file")]
)
def test_what_names_nothing_is_an_error(argument, reason):
    with pytest.raises(FileNotFoundError, match=reason):
        expand(argument)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a.png\nb c.png\n\n", ["a.png", "b c.png"]),
        (b"a.png", ["a.png"]),
        (b"line\nbreak.png\0caf\xe9.png\0", ["line\nbreak.png", "caf\udce9.png"]),
        (b"", []),
    ],
)
def test_lists(data, expected):
    assert split_list(data) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_other_systems(encoding, end):
    paths = ["imgs/a.png", "imgs/\u732b.png"]
    assert split_list(end.join([*paths, ""]).encode(encoding)) == paths


@pytest.mark.usefixtures("folder")
def test_what_earlier_runs_wrote_is_not_scored_again(tmp_path):
    for name in ("maps/a.png.map.jpg", "now/x.png", "best/0001_a.png", "best/.copies_of_ma-agiqa"):
        (tmp_path / "imgs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "imgs" / name).touch()
    listing = Listing(["imgs"], own=["imgs/now"])
    assert len(list(listing)) == 4
    assert "1 maps of an earlier run" in listing.passed_over()
    assert "imgs/best" in listing.passed_over()


def test_other_images_and_links_to_folders_are_named(folder):
    for name in ("x.avif", "IMG_1.HEIC", "y.jxl"):
        (folder / name).touch()
    (folder / "link").symlink_to(folder / "sub")
    listing = Listing(["imgs"])
    assert len(list(listing)) == 4
    for said in ("x.avif", "IMG_1.HEIC", "y.jxl", "imgs/data", "imgs/link"):
        assert said in listing.passed_over()
