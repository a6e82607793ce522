"""pyiqa's methods: random weights of the published names, shapes and places, and clear gaps.

pyiqa is no part of the default install (its license is non-commercial, and it needs numpy 2 where
its `datasets` is used); without it these tests are skipped.
"""

import importlib
import socket
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from ma_agiqa.errors import CheckpointError, DataError
from ma_agiqa.evaluate.baselines.pyiqa_metrics import PyiqaScorer, load_first_weights
from ma_agiqa.evaluate.baselines.scoring import Options, load

pytest.importorskip("pyiqa", reason="needs the extra pyiqa")

RGB = np.random.default_rng(1).integers(0, 256, (240, 260, 3), np.uint8)


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
    yield folder
    torch.hub.set_dir(before)


def arch(module):
    return importlib.import_module(f"pyiqa.archs.{module}")


def published(module, name):
    return arch(module).default_model_urls[name].rsplit("/", 1)[-1]


def write_musiq(cache: Path) -> dict[str, torch.Tensor]:
    """A random MUSIQ, saved under the published name."""
    torch.manual_seed(5)
    state = arch("musiq_arch").MUSIQ(pretrained=False).state_dict()
    torch.save(state, cache / published("musiq_arch", "koniq10k"))
    return state


def test_a_network_scores_with_the_weights_of_its_file(cache):
    state = write_musiq(cache)
    scorer = load("musiq", Options())
    loaded = scorer._metric.net.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert np.isfinite(scorer.score(RGB))
    assert scorer.origin.startswith("pyiqa ")


@pytest.mark.parametrize("key", ["brisque", "niqe", "ilniqe", "clipiqa", "hyperiqa", "dbcnn"])
def test_missing_weights_are_not_fetched_without_asking(cache, key):
    with pytest.raises(CheckpointError, match=f"cannot load {key}: .*Give --download"):
        load(key, Options())


def test_weights_that_cannot_be_fetched_are_said(cache, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(CheckpointError, match=r"cannot load musiq: .*no route"):
        load("musiq", Options(download=True))


def test_a_file_of_another_network_is_refused(cache):
    torch.save({"x": torch.zeros(1)}, cache / published("musiq_arch", "koniq10k"))
    with pytest.raises(CheckpointError, match="pyiqa cannot load musiq"):
        load("musiq", Options())


def test_niqe_reads_the_authors_layout_and_names_images_that_are_too_small(cache):
    rng = np.random.default_rng(0)
    values = {"mu_prisparam": rng.random((1, 36)), "cov_prisparam": np.eye(36)}
    scipy.io.savemat(cache / published("niqe_arch", "url"), values)
    scorer = PyiqaScorer("niqe", "cpu", download=False)
    assert scorer.score(RGB) > 0
    with pytest.raises(DataError, match="image of 40x40 pixels"):
        scorer.score(RGB[:40, :40])


def test_training_begins_with_published_weights_and_every_parameter_free(cache):
    write_musiq(cache)
    network = load_first_weights("musiq", "cpu", download=False)
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.train()
    pixels = torch.stack([network.view(RGB, np.random.default_rng(i)) for i in range(2)])
    loss = (network(pixels) - torch.tensor([1.0, 2.0])).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in network.module.transformer_encoder.parameters())
