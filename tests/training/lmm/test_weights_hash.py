"""What the weights of an embedder hash to."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.mplug_owl2.weight_files import write_tensors
from ma_agiqa.lmm.sources import demo_mplug_owl2
from ma_agiqa.lmm.weights_hash import weights_sha256


@pytest.fixture
def folder(tmp_path):
    """The demo's weights as a folder, such as a user brings."""
    owl = demo_mplug_owl2()
    write_tensors(tmp_path / "owl", owl.config.to_dict(), owl.state_dict().items())
    return tmp_path / "owl"


def test_the_hash_follows_the_weights_and_the_config(folder, tmp_path):
    def found():
        return weights_sha256(str(folder), FileHashes(tmp_path / "hashes.json"))

    first = found()
    assert first == found()
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert weights_sha256(str(moved), FileHashes(tmp_path / "other.json")) == first
    (weights,) = folder.glob("*.safetensors")
    state = load_file(weights)
    next(iter(state.values())).view(torch.uint8)[0] ^= 1
    save_file(state, weights)
    second = found()
    assert second != first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert found() not in (first, second)


def test_weights_that_are_not_here_have_no_hash(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hashes = FileHashes(tmp_path / "hashes.json")
    assert weights_sha256("some/embedder", hashes) is None
    assert weights_sha256(str(tmp_path / "no folder"), hashes) is None
    assert weights_sha256(str(tmp_path), hashes) is None
    assert len(weights_sha256("demo", hashes)) == 64
