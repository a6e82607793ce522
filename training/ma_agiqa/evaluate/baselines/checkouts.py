"""StairIQA and BAID on the user's checkout of their authors' code.

    StairIQA   https://github.com/sunwei925/StairIQA
    BAID       https://github.com/Dreemurr-T/BAID

Only the files that define the networks are run, under names of our own: nothing of a checkout can
be imported by accident afterwards.
"""

import hashlib
import importlib.util
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
import torchvision.transforms.functional as F
from torch import Tensor, nn

from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.evaluate.baselines.networks import Network, View
from ma_agiqa.networks.exact_loading import load_exactly

__all__ = ["STAIRIQA_DATABASES", "load_baid", "load_stairiqa"]

STAIRIQA_DATABASES = ("FLIVE", "FLIVE_patch", "LIVE_challenge", "Koniq10k", "SPAQ", "BID")
"""Data sets of StairIQA's published weights, in the order of the network's outputs."""

_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

_STAIRIQA_VIEW = View(short_side=384, crop=320, five_crops=True, flip=False)
_BAID_VIEW = View(square=224)

# A tensor that only this network has: its file and class.
_STAIRIQA_NETWORKS = {
    "conv1.weight": ("ResNet_staircase.py", "resnet50"),
    "quality1.0.weight": ("stairIQA_resnet.py", "resnet50_imdt"),
    "quality.0.weight": ("stairIQA_resnet.py", "resnet50"),
}


def load_stairiqa(checkout: Path, weights: Path, database: str) -> tuple[Network, str]:
    """StairIQA with weights of any of its three networks.

    Args:
        checkout: folder of the authors' repository.
        weights: a state dict, published or trained with the authors' code.
        database: whose output is taken where the network has six, of STAIRIQA_DATABASES.

    Returns:
        The network, and the origin of its weights for the table.

    Raises:
        ConfigError: the checkout lacks the network.
        CheckpointError: the weights cannot be read, or belong to another network.
    """
    state = _read_weights(weights)
    found = [place for name, place in _STAIRIQA_NETWORKS.items() if name in state]
    if not found:
        raise CheckpointError(
            f"{weights} holds none of StairIQA's networks: it has none of the tensors "
            f"{list(_STAIRIQA_NETWORKS)}. Give a file that the authors publish, or that their "
            "train_single_database.py wrote."
        )
    file, name = found[0]
    make = _find(_load_module(checkout, "models", file, "--stairiqa"), name, "--stairiqa")
    module = make(pretrained=False)
    load_exactly(module, state)
    head = STAIRIQA_DATABASES.index(database)

    def score(network: nn.Module, pixels: Tensor) -> Tensor:
        outputs = network(F.normalize(pixels, *_IMAGENET))
        return (outputs[head] if isinstance(outputs, tuple) else outputs).flatten()

    chosen = f", output {database}" if name != "resnet50" or "conv1.weight" in state else ""
    return Network(module, _STAIRIQA_VIEW, score), f"{_identity(weights)}{chosen}"


def load_baid(checkout: Path, weights: Path) -> tuple[Network, str]:
    """BAID's network, SAAN; its scores are in 0..10, as its authors' test.py prints them.

    Args:
        checkout: folder of the authors' repository.
        weights: a state dict of SAAN.

    Raises:
        ConfigError: the checkout lacks the network.
        CheckpointError: the weights cannot be read, or belong to another network.
    """
    state = _read_weights(weights)
    code = _load_module(checkout, "models", "model.py", "--baid")
    make = _find(code, "SAAN", "--baid")
    # The authors' constructors read first weights from fixed places; the file replaces them all.
    code.vgg19 = lambda **_: torchvision.models.vgg19()
    for part in ("GAB", "SAB"):
        _find(code, part, "--baid")._init_weights = lambda self: None
    module = make(num_classes=1)
    load_exactly(module, state)

    def score(network: nn.Module, pixels: Tensor) -> Tensor:
        return 10 * network(F.normalize(pixels, *_IMAGENET)).flatten()

    return Network(module, _BAID_VIEW, score), _identity(weights)


def _load_module(checkout: Path, folder: str, file: str, option: str) -> ModuleType:
    """Run one file of a package folder, whose other files it may import by `from .name`."""
    path = checkout / folder / file
    if not path.is_file():
        raise ConfigError(
            f"{option} {checkout}: there is no {folder}/{file}. Give the folder of a checkout of "
            "the authors' repository."
        )
    package_name = f"_checkout_{uuid.uuid4().hex}"
    package = ModuleType(package_name)
    package.__path__ = [str(path.parent)]
    sys.modules[package_name] = package
    try:
        spec = importlib.util.spec_from_file_location(f"{package_name}.{path.stem}", path)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:  # the file is not ours and may raise anything
        raise ConfigError(f"{option}: {path} cannot be run: {error!r}.") from error
    finally:
        for name in [n for n in sys.modules if n.split(".")[0] == package_name]:
            del sys.modules[name]
    return module


def _find(module: ModuleType, name: str, option: str) -> Any:
    if not hasattr(module, name):
        raise ConfigError(
            f"{option}: {module.__file__} has no {name}. Give a checkout of the authors' "
            "repository, unchanged."
        )
    return getattr(module, name)


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict; DataParallel's prefix is taken off."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"Cannot read the weights {path}: {error.strerror}.") from error
    except Exception as error:  # torch and pickle raise errors of every kind on wrong files
        raise CheckpointError(f"{path} holds no weights of torch: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state dict: tensors by name are expected.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _identity(path: Path) -> str:
    with open(path, "rb") as file:
        return f"{path.name} (SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:8]}...)"
