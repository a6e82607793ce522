import os
import shutil
from collections import namedtuple
from pathlib import Path

import gdown
import pytest
from gdown.exceptions import FileURLRetrievalError

from ma_agiqa.checkpoints.downloads import CHECKPOINT_NAME
from ma_agiqa.errors import DownloadError
from support.published_weights import WEB_PAGE, fetch_checkpoint


@pytest.mark.usefixtures("no_network")
def test_drive_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"Drive cannot be reached.*network") as caught:
        fetch_checkpoint(tmp_path)
    assert "1YT9Fryok-ozYPIvT1V3gEnEF-Ij3UxPp" in str(caught.value)
    assert "--checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_checkpoint_that_is_there_is_used(checkpoint: Path, tmp_path: Path) -> None:
    os.link(checkpoint, tmp_path / CHECKPOINT_NAME)
    assert fetch_checkpoint(tmp_path) == tmp_path / CHECKPOINT_NAME


@pytest.mark.usefixtures("no_network")
def test_damaged_checkpoint_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_NAME).write_bytes(WEB_PAGE)
    with pytest.raises(DownloadError, match=r"Not the checkpoint.*web page.*Delete .*--checkpoint"):
        fetch_checkpoint(tmp_path)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == WEB_PAGE


def test_good_checkpoint_gets_its_final_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def give(output: str, **kwargs: object) -> str:
        asked.update(kwargs)
        os.link(checkpoint, output)
        return output

    monkeypatch.setattr(gdown, "download", give)
    path = fetch_checkpoint(tmp_path / "weights")
    assert asked["id"] == "1YT9Fryok-ozYPIvT1V3gEnEF-Ij3UxPp"
    assert asked["resume"] is True
    assert [p.name for p in (tmp_path / "weights").iterdir()] == [path.name] == [CHECKPOINT_NAME]


def test_web_page_in_place_of_the_checkpoint_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gdown, "download", lambda output, **_: Path(output).write_bytes(WEB_PAGE) and output
    )
    with pytest.raises(DownloadError, match=r"Not the checkpoint.*web page.*--checkpoint"):
        fetch_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("\tToo many users have viewed or\n\tdownloaded this file recently.", r"a day"),
        ("Cannot retrieve the public link of the file.", r"moved, deleted or made private"),
    ],
)
def test_refusal_of_drive_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, said: str
) -> None:
    def refuse(**_: object) -> None:
        raise FileURLRetrievalError(f"Failed to retrieve file url:\n\n{page}\n\n")

    monkeypatch.setattr(gdown, "download", refuse)
    with pytest.raises(DownloadError, match=f"{said}.*--checkpoint") as caught:
        fetch_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_part_of_the_checkpoint_counts_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(600_000_000))
    with pytest.raises(DownloadError, match=r"0\.66 GB are still.*only 0\.60 GB free"):
        fetch_checkpoint(tmp_path)

    with open(tmp_path / f"{CHECKPOINT_NAME}.uncheckedabcdefgh.part", "wb") as part:
        part.truncate(100_000_000)
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch_checkpoint(tmp_path)
