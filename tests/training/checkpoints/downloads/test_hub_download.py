import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from ma_agiqa.checkpoints.weight_files import check_mplug_owl2
from ma_agiqa.errors import DownloadError
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.sources import PAPER_EMBEDDER
from support.local_hub import LocalHub
from support.published_weights import (
    FOLDER_NAME,
    SHARDS,
    WANTED,
    WEB_PAGE,
    fetch_mplug_owl2,
)


def test_fetched_model_loads_with_the_published_values(
    hub: LocalHub, tiny_owl: dict, tmp_path: Path
) -> None:
    folder = fetch_mplug_owl2(tmp_path / "weights", hub.url)

    assert folder == tmp_path / "weights" / FOLDER_NAME
    assert {path.name for path in folder.iterdir() if path.is_file()} == WANTED
    loaded = MPlugOwl2Model.from_pretrained(folder, dtype=torch.float16).state_dict()
    published = {name.removeprefix("model."): v for name, v in tiny_owl["state"].items()}
    compared = loaded.keys() & published.keys()
    assert len(compared) > 0.9 * len(loaded)
    for name in compared:
        assert torch.equal(loaded[name], published[name].half()), name


def test_second_run_fetches_nothing_and_needs_no_hub(hub: LocalHub, tmp_path: Path) -> None:
    fetch_mplug_owl2(tmp_path, hub.url)
    assert hub.weight_downloads() == len(SHARDS)
    hub.refusals["/"] = (503, "")

    assert fetch_mplug_owl2(tmp_path, hub.url) == tmp_path / FOLDER_NAME
    assert hub.weight_downloads() == len(SHARDS)


def test_run_after_a_broken_one_fetches_only_the_rest(hub: LocalHub, tmp_path: Path) -> None:
    hub.cut[SHARDS[1]] = 100_000
    hub.silent.add(SHARDS[1])
    with pytest.raises(DownloadError, match=r"cannot be reached.*run this again.*--embedder"):
        fetch_mplug_owl2(tmp_path, hub.url)
    assert not (tmp_path / FOLDER_NAME / SHARDS[1]).exists()

    hub.silent.clear()
    fetch_mplug_owl2(tmp_path, hub.url)

    check_mplug_owl2(tmp_path / FOLDER_NAME)
    assert hub.downloads[SHARDS[0]] == hub.downloads[SHARDS[2]] == 1


def test_safetensors_are_taken_instead_of_bin_shards(
    hub: LocalHub, tiny_owl: dict, tmp_path: Path
) -> None:
    state = {name: value.half() for name, value in tiny_owl["state"].items()}
    save_file(state, hub.folder / "model.safetensors", metadata={"format": "pt"})

    folder = fetch_mplug_owl2(tmp_path, hub.url)

    assert hub.weight_downloads() == hub.downloads["model.safetensors"] == 1
    MPlugOwl2Model.from_pretrained(folder, dtype=torch.float16)


@pytest.mark.parametrize(
    ("part", "status", "code", "said"),
    [
        ("/api/", 404, "RepoNotFound", r"HTTP 404.*moved, renamed or deleted.*new name"),
        ("/api/", 401, "", r"HTTP 401.*private, renamed or deleted.*HF_TOKEN"),
        ("/resolve/", 401, "GatedRepo", r"HTTP 401.*Ask for access.*HF_TOKEN"),
        ("/resolve/", 403, "", r"HTTP 403.*Ask for access.*HF_TOKEN"),
        (f"/resolve/{'0123456789abcdef' * 2}01234567/{SHARDS[2]}", 404, "EntryNotFound", "404"),
        ("/api/", 500, "", r"HTTP 500.*later"),
    ],
)
def test_refusal_of_the_hub_says_what_to_do(
    hub: LocalHub, tmp_path: Path, part: str, status: int, code: str, said: str
) -> None:
    hub.refusals[part] = (status, code)

    with pytest.raises(DownloadError, match=said) as caught:
        fetch_mplug_owl2(tmp_path, hub.url)

    assert f"{hub.url}/{PAPER_EMBEDDER} into {tmp_path / FOLDER_NAME}" in str(caught.value)
    assert "--embedder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_token_of_the_environment_is_sent(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_local"
    with pytest.raises(DownloadError, match="HF_TOKEN"):
        fetch_mplug_owl2(tmp_path, hub.url)

    monkeypatch.setenv("HF_TOKEN", "hf_local")
    check_mplug_owl2(fetch_mplug_owl2(tmp_path, hub.url))


def test_the_missing_bytes_must_fit_before_anything_is_downloaded(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    shard = hub.folder / SHARDS[0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(shard.stat().st_size))
    with pytest.raises(DownloadError, match=r"GB are still.*--output.*--embedder"):
        fetch_mplug_owl2(tmp_path, hub.url)
    assert not hub.downloads

    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fetch_mplug_owl2(tmp_path, hub.url)
    (tmp_path / FOLDER_NAME / SHARDS[0]).unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(shard.stat().st_size))
    check_mplug_owl2(fetch_mplug_owl2(tmp_path, hub.url))


def test_disk_that_becomes_full(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill_disk: Callable[..., None]
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fill_disk)
    with pytest.raises(DownloadError, match=r"disk is full.*run this again.*--embedder"):
        fetch_mplug_owl2(tmp_path, hub.url)


def test_folder_that_cannot_be_written(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("is a file")
    with pytest.raises(DownloadError, match=r"weights.*--embedder"):
        fetch_mplug_owl2(tmp_path / "weights", hub.url)


def test_web_page_in_place_of_a_shard(hub: LocalHub, tmp_path: Path) -> None:
    (hub.folder / SHARDS[0]).write_bytes(WEB_PAGE)
    with pytest.raises(DownloadError, match=rf"{SHARDS[0]} is not a weight file.*web page"):
        fetch_mplug_owl2(tmp_path, hub.url)
