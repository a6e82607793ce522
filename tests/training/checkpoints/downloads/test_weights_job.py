"""What the script of the Helm chart's job leaves on the volume; the hub is on this machine."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from ma_agiqa.errors import DownloadError
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.mplug_owl2.weight_files import read_tensors, weight_files
from ma_agiqa.lmm.weights_hash import weights_sha256
from support.local_hub import COMMIT, LocalHub

SCRIPT = Path(__file__).resolve().parents[4] / "deploy" / "helm" / "files" / "fetch_weights.py"


@pytest.fixture
def fetch(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the script with its options; returns the folder."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(**changes: str) -> Path:
        folder = tmp_path / "weights"
        given = {"model": hub.repo, "revision": COMMIT, "sha256": "", "dtype": "float16"}
        options = {**given, **changes, "folder": folder}.items()
        monkeypatch.setattr(sys, "argv", ["fetch", *(f"--{n}={value}" for n, value in options)])
        try:
            runpy.run_path(str(SCRIPT))
        except SystemExit as end:
            if end.code:
                raise
        return folder

    return run


@pytest.mark.parametrize(("dtype", "suffix"), [("float16", ".safetensors"), ("", ".bin")])
def test_servers_find_the_weights_by_the_hubs_name(hub, fetch, tmp_path, dtype, suffix):
    original = weights_sha256(str(hub.folder), FileHashes(tmp_path / "hashes"))
    folder = fetch(dtype=dtype, sha256=original)
    assert [path.name for path in tmp_path.glob("weights*")] == ["weights"]
    found = snapshot_download(hub.repo, local_files_only=True, cache_dir=folder / "hub")
    assert {file.suffix for file in weight_files(found)} == {suffix}
    kept, sent = (dict(read_tensors(str(f), stay_mapped=True)) for f in (found, hub.folder))
    assert kept.keys() == sent.keys()
    assert all(kept[name].equal(value.half()) for name, value in sent.items())
    # So servers accept them for what was exported with the originals.
    assert weights_sha256(found, FileHashes(tmp_path / "hashes"), "float16") == original

    downloads = hub.weight_downloads()
    fetch(dtype=dtype)
    assert hub.weight_downloads() == downloads


def test_other_weights_than_expected_are_not_used(hub, fetch, tmp_path):
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"not 0{64}\. Set weights\.revision"):
            fetch(sha256="0" * 64)
    assert [path.name for path in tmp_path.glob("weights*")] == ["weights.download"]
    assert hub.downloads["pytorch_model-1-of-3.bin"] == 1


def test_a_fetch_that_was_interrupted_is_finished(hub, fetch, tmp_path):
    hub.refusals["pytorch_model-3"] = (404, "EntryNotFound")
    with pytest.raises(DownloadError):
        fetch()
    (tmp_path / "weights.partial" / "hub").mkdir(parents=True)  # and so was a conversion
    hub.refusals.clear()
    assert (fetch() / "complete").exists()
    assert hub.downloads["pytorch_model-1-of-3.bin"] == 1
