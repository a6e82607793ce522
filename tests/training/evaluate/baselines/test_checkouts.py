"""StairIQA and BAID on checkouts with the files, classes and signatures of their authors' code.

The networks in them are small ones of our own.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.evaluate.baselines.checkouts import load_baid, load_stairiqa

RGB = np.random.default_rng(3).integers(0, 256, (400, 430, 3), np.uint8)

STAIRIQA_SIX = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7, 4)
        for index in range(1, 7):
            setattr(self, f"quality{index}", nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1)))

    def forward(self, x):
        x = self.conv1(x).relu().mean((2, 3))
        return tuple(getattr(self, f"quality{index}")(x) for index in range(1, 7))

def resnet50(pretrained=False, progress=True):
    assert not pretrained
    return Net()
"""

STAIRIQA_ONE = """
from torch import nn

class resnet50(nn.Module):
    def __init__(self, pretrained=True):
        super().__init__()
        assert not pretrained
        self.stem = nn.Conv2d(3, 4, 7, 4)
        self.quality = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1))

    def forward(self, x):
        return self.quality(self.stem(x).relu().mean((2, 3)))
"""

BAID_LAYERS = "def mixed(a, b):\n    return a + b\n"

BAID_MODEL = """
import torch
from torch import nn
from torchvision.models import VGG19_Weights, vgg19
from .layers import mixed

class SAB(nn.Module):
    def __init__(self):
        super().__init__()
        self.vgg = nn.Sequential(*vgg19(weights=VGG19_Weights.DEFAULT).features[:2])
        self._init_weights()

    def _init_weights(self):
        self.load_state_dict(torch.load("checkpoint/ResNet_Pretrain/epoch_99.pth"))

class GAB(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, padding=1)
        self._init_weights()

    def _init_weights(self):
        self.load_state_dict(torch.load("checkpoint/ResNet_Pretrain/epoch_99.pth"))

class SAAN(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.GenAes, self.StyAes = GAB(), SAB()
        self.predictor = nn.Sequential(nn.Linear(64, num_classes), nn.Sigmoid())

    def forward(self, x):
        assert x.shape[2:] == (224, 224)
        return self.predictor(mixed(self.GenAes.conv(x), self.StyAes.vgg(x)).mean((2, 3)))
"""


@pytest.fixture
def stairiqa(tmp_path) -> Path:
    models = tmp_path / "StairIQA" / "models"
    models.mkdir(parents=True)
    (models / "ResNet_staircase.py").write_text(STAIRIQA_SIX)
    (models / "stairIQA_resnet.py").write_text(STAIRIQA_ONE)
    return models.parent


@pytest.fixture
def baid(tmp_path) -> Path:
    models = tmp_path / "BAID" / "models"
    models.mkdir(parents=True)
    (models / "layers.py").write_text(BAID_LAYERS)
    (models / "model.py").write_text(BAID_MODEL)
    return models.parent


def save_random(path: Path, shapes: dict[str, tuple[int, ...]], prefix: str = "") -> Path:
    generator = torch.Generator().manual_seed(1)
    state = {
        prefix + name: torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    torch.save(state, path)
    return path


def six_weights(path: Path) -> Path:
    shapes = {"conv1.weight": (4, 3, 7, 7), "conv1.bias": (4,)}
    for index in range(1, 7):
        for layer, shape in enumerate([(2, 4), (1, 2)]):
            shapes[f"quality{index}.{layer}.weight"] = shape
            shapes[f"quality{index}.{layer}.bias"] = shape[:1]
    return save_random(path, shapes, prefix="module.")  # as DataParallel saves them


ONE_SHAPES = {
    "stem.weight": (4, 3, 7, 7),
    "stem.bias": (4,),
    "quality.0.weight": (2, 4),
    "quality.0.bias": (2,),
    "quality.1.weight": (1, 2),
    "quality.1.bias": (1,),
}
BAID_SHAPES = {
    "GenAes.conv.weight": (64, 3, 3, 3),
    "GenAes.conv.bias": (64,),
    "StyAes.vgg.0.weight": (64, 3, 3, 3),
    "StyAes.vgg.0.bias": (64,),
    "predictor.0.weight": (1, 64),
    "predictor.0.bias": (1,),
}


def test_stairiqa_gives_the_output_of_the_chosen_database(stairiqa, tmp_path):
    weights = six_weights(tmp_path / "koniq.pkl")
    koniq, origin = load_stairiqa(stairiqa, weights, "Koniq10k")
    spaq, _ = load_stairiqa(stairiqa, weights, "SPAQ")
    assert "output Koniq10k" in origin
    assert "koniq.pkl" in origin
    views = koniq.view.for_scoring(RGB)
    assert views.shape == (5, 3, 320, 320)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (views - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        outputs = koniq.module(normal)
    assert koniq.eval().score(RGB) == pytest.approx(float(outputs[3].mean()), abs=1e-6)
    assert spaq.eval().score(RGB) == pytest.approx(float(outputs[4].mean()), abs=1e-6)


def test_stairiqa_trained_on_one_data_set_is_recognized(stairiqa, tmp_path):
    weights = save_random(tmp_path / "own.pkl", ONE_SHAPES)
    network, origin = load_stairiqa(stairiqa, weights, "Koniq10k")
    assert "output" not in origin
    assert np.isfinite(network.eval().score(RGB))


def test_baid_needs_none_of_the_files_that_its_constructors_read(baid, tmp_path):
    weights = save_random(tmp_path / "model_best.pth", BAID_SHAPES)
    network, _ = load_baid(baid, weights)
    score = network.eval().score(RGB)
    assert 0 <= score <= 10
    state = torch.load(weights, weights_only=True)
    assert torch.equal(network.module.StyAes.vgg[0].weight, state["StyAes.vgg.0.weight"])


def test_nothing_of_a_checkout_stays_importable(baid, tmp_path):
    before, path = set(sys.modules), list(sys.path)
    load_baid(baid, save_random(tmp_path / "model_best.pth", BAID_SHAPES))
    new = {name for name in set(sys.modules) - before if "checkout" in name or name == "models"}
    assert new == set()
    assert sys.path == path


def test_a_folder_that_is_no_checkout_is_named(tmp_path):
    weights = six_weights(tmp_path / "koniq.pkl")
    with pytest.raises(ConfigError, match=r"--stairiqa .*no models/ResNet_staircase\.py"):
        load_stairiqa(tmp_path, weights, "Koniq10k")


def test_a_checkout_without_the_class_is_named(baid, tmp_path):
    (baid / "models" / "model.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="has no SAAN"):
        load_baid(baid, save_random(tmp_path / "model_best.pth", BAID_SHAPES))


def test_a_checkout_that_cannot_run_is_named(baid, tmp_path):
    (baid / "models" / "model.py").write_text("import surely_not_there\n")
    with pytest.raises(ConfigError, match=r"model\.py cannot be run.*surely_not_there"):
        load_baid(baid, save_random(tmp_path / "model_best.pth", BAID_SHAPES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Cannot read the weights"),
        (b"no weights", "holds no weights of torch"),
        ([1, 2], "holds no state dict"),
        ({"other": torch.zeros(1)}, "none of StairIQA's networks"),
        ({"conv1.weight": torch.zeros(1)}, "does not fit the model"),
    ],
)
def test_weights_that_do_not_fit_are_named(stairiqa, tmp_path, content, message):
    path = tmp_path / "weights.pkl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_stairiqa(stairiqa, path, "Koniq10k")
