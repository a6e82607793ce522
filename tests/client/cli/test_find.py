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


def images(*paths):
    return [found.path for found in Listing(paths)]


@pytest.mark.usefixtures("folder")
def test_folders_are_searched_in_order():
    expected = ["imgs/a.JPG", "imgs/b.png", "imgs/sub/c.webp", "imgs/sub/deep/d.tiff"]
    listing = Listing(["imgs"])
    assert [found.path for found in listing] == expected
    assert [found.path for found in listing] == expected  # again


def test_each_file_counts_once(folder):
    assert len(images("imgs/b.png", "imgs", str(folder / "a.JPG"), "imgs/../imgs/b.png")) == 4


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


TEXT = "a.png\nb c.png\nd\u00e9\u732b.png\n"
NAMES = TEXT.split("\n")[:-1]
MARK = "\ufeff"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.replace("\n", "\r\n").encode(),
        (MARK + TEXT).encode(),
        (MARK + TEXT.replace("\n", "\r\n")).encode(),
        *((MARK + TEXT).encode(f"utf-{code}") for code in ("16-le", "16-be", "32-le", "32-be")),
        (MARK + TEXT.replace("\n", "\r\n")).encode("utf-16-le"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.replace("\n", "\r\n").rstrip().encode("utf-16-le"),
        (MARK + TEXT.replace("\n", "\0")).encode("utf-16-le"),
    ],
)
def test_lists_of_other_systems(data):
    assert split_list(data) == NAMES


@pytest.mark.parametrize(
    "data",
    [
        "a.png\n/\n.\n".encode("utf-16-le")[:-1],  # cut in the middle of a character
        MARK.encode("utf-16-le") + b"a",
        MARK.encode("utf-16-le") + b"\0\xd8\n\0",  # half of a pair
        "a/./b.png\n".encode("utf-32-le"),
        b"a\0.\0/\0x.png",
    ],
)
def test_a_list_in_another_encoding_is_an_error_and_never_a_folder(data):
    with pytest.raises(ValueError, match=r"UTF-16|codec"):
        split_list(data)


def test_a_name_that_ends_in_a_carriage_return(folder):
    (folder / "odd.png\r").touch()
    assert split_list(b"imgs/odd.png\r\nimgs/b.png\r\n") == ["imgs/odd.png\r", "imgs/b.png"]


def test_what_is_passed_over_is_said(folder):
    for name in ["x.jxr", "X.HEIC", "y.jxl", "no_ending", "z.svg", "sub/w.jxr"]:
        (folder / name).touch()
    (folder / "linked").symlink_to("sub")
    (folder / "loop").symlink_to(".")
    listing = Listing(["imgs"])
    assert len(list(listing)) == 4
    said = listing.passed_over()
    for part in (
        "2 of the kind .jxr, such as imgs/x.jxr",
        "1 of the kind .heic, such as imgs/X.HEIC",
        "1 of the kind .jxl",
        "2 without an extension, such as imgs/data",
        "2 links to folders, such as imgs/linked",
    ):
        assert part in said
    assert "notes.txt" not in said
    assert len(list(listing)) == 4  # again
    assert listing.passed_over() == said


@pytest.mark.usefixtures("folder")
def test_a_file_named_explicitly_counts_whatever_its_name():
    listing = Listing(["imgs/b.png", "imgs/data", "imgs/.cache/e.png", "imgs/.hidden.png"])
    assert (len(list(listing)), listing.passed_over()) == (4, "")


def test_linked_files_and_a_linked_folder_that_is_given_count(folder):
    (folder / "link.png").symlink_to("b.png")
    (folder.parent / "top").symlink_to("imgs")
    assert len(images("top")) == 5


def test_folders_that_this_run_writes_are_not_searched(folder):
    for name in ("sub/out/a.png", "sub/out/deep/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder.parent / "link").symlink_to("imgs/sub/out")
    for own in ("imgs/sub/out", str(folder / "sub" / "out"), "./imgs/../imgs/sub/out/", "link"):
        assert len(list(Listing(["imgs"], own=[own, None]))) == 4
    assert len(list(Listing(["imgs"], own=["imgs"]))) == 6  # given as input, too


@pytest.mark.usefixtures("folder")
def test_what_earlier_runs_wrote_is_not_scored_again(tmp_path):
    for name in ("maps/a.png.map.jpg", "now/x.png", "best/0001_a.png", "best/.copies_of_ma-agiqa"):
        (tmp_path / "imgs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "imgs" / name).touch()
    listing = Listing(["imgs"], own=["imgs/now"])
    assert len(list(listing)) == 4
    assert "1 maps of an earlier run" in listing.passed_over()
    assert "imgs/best" in listing.passed_over()
