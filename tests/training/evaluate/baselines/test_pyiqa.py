"""pyiqa's methods: random weights of the published names, shapes and places, and clear gaps.

pyiqa is no part of the default install (its license is non-commercial, and it needs numpy 2 where
its `datasets` is used); without it these tests are skipped.
"""

import hashlib
import importlib
import socket
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from ma_agiqa.evaluate.baselines.loading import Options, load

from ma_agiqa.errors import CheckpointError, DataError, DownloadError
from ma_agiqa.evaluate.baselines import pyiqa_metrics
from ma_agiqa.evaluate.baselines.pyiqa_metrics import load_first_weights, load_metric

pytest.importorskip("pyiqa", reason="pyiqa is not installed (extra pyiqa)")

RGB = np.random.default_rng(1).integers(0, 256, (240, 260, 3), np.uint8)
RANDOM_NETWORKS = {
    "hyperiqa": ("hypernet_arch", "HyperNet", "resnet50-koniq", "params"),
    "dbcnn": ("dbcnn_arch", "DBCNN", "koniq", "params"),
    "musiq": ("musiq_arch", "MUSIQ", "koniq10k", None),
    "maniqa": ("maniqa_arch", "MANIQA", "koniq", None),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """pyiqa's folder of weights, empty; and no way out of the machine."""
    folder = tmp_path / "hub" / "pyiqa"
    folder.mkdir(parents=True)
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(folder))
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield folder
    torch.hub.set_dir(before)


def arch(module):
    return importlib.import_module(f"pyiqa.archs.{module}")


def published(module, name):
    return arch(module).default_model_urls[name].rsplit("/", 1)[-1]


def write_random(cache: Path, key: str) -> dict[str, torch.Tensor]:
    """A random network of a method, saved under the published name."""
    module, name, published_name, wrapped = RANDOM_NETWORKS[key]
    torch.manual_seed(5)
    if key == "dbcnn":
        scnn = arch(module).SCNN().state_dict()
        torch.save(scnn, cache / published(module, "scnn"))
    with pyiqa_metrics._without_backbones():
        network = getattr(arch(module), name)(pretrained=False)
    state = network.state_dict()
    torch.save({wrapped: state} if wrapped else state, cache / published(module, published_name))
    return state


@pytest.mark.parametrize("key", RANDOM_NETWORKS)
def test_a_network_scores_with_the_weights_of_its_file(cache, key):
    state = write_random(cache, key)
    scorer = load(key, Options())
    loaded = scorer._metric.net.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    if key == "maniqa":
        scorer._metric.net.test_sample = 1  # of 20 crops, which take minutes on a CPU
    assert np.isfinite(scorer.score(RGB))
    assert published(*RANDOM_NETWORKS[key][0:3:2]) in scorer.origin


@pytest.mark.parametrize("key", [key for key in pyiqa_metrics.PYIQA_METHODS if key != "brisque"])
def test_a_missing_file_is_named_with_its_place_at_once(cache, key):
    with pytest.raises(DownloadError, match=r"is not on this machine: put it at .*hub.*--download"):
        load(key, Options())


def test_a_file_that_cannot_be_fetched_is_named(cache, monkeypatch):
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *_: (_ for _ in ()).throw(OSError("no route"))
    )
    with pytest.raises(DownloadError, match=r"musiq_koniq.*could not be fetched \(no route\)"):
        load("musiq", Options(download=True))


def test_a_file_of_another_network_is_refused(cache):
    torch.save({"x": torch.zeros(1)}, cache / published("musiq_arch", "koniq10k"))
    with pytest.raises(CheckpointError, match="pyiqa cannot load musiq"):
        load("musiq", Options())


def tree(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module without code that holds tensors under these dotted names."""
    root = torch.nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place._modules[part]
        place.register_buffer(last, value)
    return root


def write_clip(cache: Path, monkeypatch) -> None:
    """A random CLIP RN50 at its place, a TorchScript file, whose checksum pyiqa is told."""
    clip = arch("clip_model")
    torch.manual_seed(6)
    model = clip.CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 2)
    path = cache.parent / "clip" / "RN50.pt"
    path.parent.mkdir()
    torch.jit.script(tree(model.state_dict())).save(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(clip._MODELS, "RN50", f"https://example.org/{sha256}/RN50.pt")


def test_clipiqa_and_clipiqa_plus_score_with_a_local_clip(cache, monkeypatch):
    write_clip(cache, monkeypatch)
    plain = load("clipiqa", Options())
    assert 0 <= plain.score(RGB) <= 1
    with pytest.raises(DownloadError, match=r"CLIPIQA\+ needs CLIP-IQA"):
        load("clipiqa+", Options())
    prompts = 0.02 * torch.randn(2, 16, 512)
    torch.save(prompts, cache / published("clipiqa_arch", "clipiqa+"))
    learned = load("clipiqa+", Options())
    assert torch.equal(learned._metric.net.prompt_learner.ctx, prompts)
    assert 0 <= learned.score(RGB) <= 1


def test_a_clip_with_another_checksum_is_refused(cache):
    path = cache.parent / "clip" / "RN50.pt"
    path.parent.mkdir()
    path.write_bytes(b"half a file")
    with pytest.raises(DownloadError, match="another file than the published one"):
        load("clipiqa", Options())


def test_niqe_reads_the_authors_layout_and_names_images_that_are_too_small(cache):
    rng = np.random.default_rng(0)
    values = {"mu_prisparam": rng.random((1, 36)), "cov_prisparam": np.eye(36)}
    scipy.io.savemat(cache / published("niqe_arch", "url"), values)
    scorer = load_metric("niqe", "cpu", download=False, progress=False)
    assert scorer.score(RGB) > 0
    with pytest.raises(DataError, match="image of 40x40 pixels"):
        scorer.score(RGB[:40, :40])


def test_brisque_prefers_the_authors_support_vectors(cache):
    torch.save((torch.randn(774), torch.randn(774, 36)), cache / published("brisque_arch", "url"))
    assert load("brisque", Options()).origin.startswith("pyiqa")


def test_training_begins_with_published_weights_and_every_parameter_free(cache):
    write_random(cache, "musiq")
    network, origin = load_first_weights("musiq", "cpu", download=False, progress=False)
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.train()
    pixels = torch.stack([network.view.for_training(RGB) for _ in range(2)])
    loss = (network(pixels) - torch.tensor([1.0, 2.0])).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in network.module.transformer_encoder.parameters())
    assert "musiq_koniq" in origin


def test_training_names_the_backbone_that_is_missing(cache, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(DownloadError, match=r"HyperIQA needs model\.safetensors.*timm/resnet50"):
        load_first_weights("hyperiqa", "cpu", download=False, progress=False)
