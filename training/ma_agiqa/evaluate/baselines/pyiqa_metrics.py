"""Methods of Table 1 by pyiqa, with the weights that it publishes.

pyiqa fetches whatever it misses by itself, on some ways without a time limit. Here every file is
looked for first, and pyiqa is only started when all are there.

pyiqa's license (PolyForm Noncommercial 1.0.0) forbids commercial use, and its dependencies need
numpy 2, which the embedded server cannot have: it is an extra for an environment of its own.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from ma_agiqa.errors import CheckpointError, ConfigError, DataError
from ma_agiqa.evaluate.baselines.methods import METHODS
from ma_agiqa.evaluate.baselines.networks import Network, View, as_pixels
from ma_agiqa.evaluate.baselines.weight_files import HubFile, UrlFile, hub_offline, require
from ma_agiqa.images.views import RGB

__all__ = ["PYIQA_METHODS", "PyiqaScorer", "is_installed", "load_first_weights", "load_metric"]

_INSTALL = (
    "pyiqa is not installed. It needs numpy 2, so give it an environment without the embedded "
    "server: pip install -e './training[train,pyiqa]' (its license, PolyForm Noncommercial 1.0.0, "
    "forbids commercial use)."
)
_CLIP = "RN50"  # the image encoder of CLIPIQA and CLIPIQA+
_VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"


@dataclass(frozen=True)
class _Metric:
    """What pyiqa needs for a method.

    Attributes:
        module: of `pyiqa.archs`, which lists the addresses of its weights.
        published: names of these weights there.
        clip: whether OpenAI's CLIP is needed too.
        also: another file that serves under the weights' name.
        view: of images in training; empty where the method is not trained.
        first: names of the weights from which a training begins.
        backbone: timm's, from whose weights a training begins.
    """

    module: str
    published: tuple[str, ...] = ()
    clip: bool = False
    also: str = ""
    view: View = field(default_factory=View)
    first: tuple[str, ...] = ()
    backbone: str | None = None


_METRICS: Mapping[str, _Metric] = MappingProxyType(
    {
        "brisque": _Metric("brisque_arch", ("url",)),
        "niqe": _Metric(
            "niqe_arch", ("url",), also="; the authors' own modelparameters.mat serves as well"
        ),
        "ilniqe": _Metric(
            "niqe_arch", ("ilniqe",), also="; the authors' own templateModel.mat serves as well"
        ),
        "clipiqa": _Metric("clipiqa_arch", clip=True),
        "clipiqa+": _Metric("clipiqa_arch", ("clipiqa+",), clip=True),
        "hyperiqa": _Metric(
            "hypernet_arch", ("resnet50-koniq",), view=View(crop=224), backbone="resnet50"
        ),
        # The network itself draws 224 pixels of these.
        "maniqa": _Metric(
            "maniqa_arch", ("koniq",), view=View(crop=256), backbone="vit_base_patch8_224"
        ),
        "dbcnn": _Metric("dbcnn_arch", ("koniq", "scnn"), view=View(crop=384), first=("scnn",)),
        "musiq": _Metric("musiq_arch", ("koniq10k",), view=View(crop=384), first=("koniq10k",)),
    }
)

PYIQA_METHODS = tuple(_METRICS)
"""Keys of the methods that pyiqa has."""


def is_installed() -> bool:
    """Whether pyiqa can be imported."""
    return importlib.util.find_spec("pyiqa") is not None


class PyiqaScorer:
    """A metric of pyiqa with its published weights, on whole images.

    Args:
        metric: of pyiqa.
        origin: of its weights, for the table.
    """

    def __init__(self, metric: nn.Module, origin: str) -> None:
        self._metric = metric
        self.origin = origin

    @torch.inference_mode()
    def score(self, rgb: RGB) -> float:
        """The method's value of an image, uint8 (H, W, 3).

        Raises:
            DataError: the method cannot measure the image, for instance because it is too small.
        """
        try:
            return float(self._metric(as_pixels(rgb)[None]))
        except (ArithmeticError, IndexError, RuntimeError, ValueError) as error:
            size = f"{rgb.shape[1]}x{rgb.shape[0]} pixels"
            raise DataError(f"pyiqa cannot measure this image of {size}: {error}.") from error


def load_metric(key: str, device: str, download: bool, progress: bool) -> PyiqaScorer:
    """A method with the weights that pyiqa publishes for it.

    Raises:
        ConfigError: pyiqa is not installed.
        DownloadError: a file is missing; the message names it and its place.
        CheckpointError: a file is not what pyiqa expects.
    """
    if not is_installed():
        raise ConfigError(_INSTALL)
    names = require(METHODS[key].name, _published_files(key), download, progress)
    with _quietly(key), _without_backbones(), hub_offline():
        metric = importlib.import_module("pyiqa").create_metric(key, device=torch.device(device))
    return PyiqaScorer(metric, f"{_version()}, {names}")


def load_first_weights(
    key: str, device: str, download: bool, progress: bool
) -> tuple[Network, str]:
    """A method's network as a training begins with it, and the origin of its weights.

    HyperIQA and MANIQA begin with timm's backbone, DB-CNN with torchvision's and its own S-CNN,
    MUSIQ with its published weights: that is what their authors' codes and pyiqa have.

    Raises:
        ConfigError, DownloadError, CheckpointError: as `load_metric`.
    """
    if not is_installed():
        raise ConfigError(_INSTALL)
    metric, files = _METRICS[key], _first_files(key)
    names = require(METHODS[key].name, files, download, progress)
    arguments: dict[str, Any] = {} if key == "musiq" else {"pretrained": False}
    with _quietly(key), hub_offline():
        network = (
            importlib.import_module("pyiqa")
            .create_metric(key, device=torch.device(device), **arguments)
            .net
        )
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # pyiqa holds some of DB-CNN's still
    wrapped = Network(network, metric.view, _flat, keeps_mode=key == "musiq")
    return wrapped.to(device), f"{_version()}, {names}"


def _flat(network: nn.Module, pixels: Tensor) -> Tensor:
    return network(pixels).flatten()


def _published_files(key: str) -> list[UrlFile | HubFile]:
    metric = _METRICS[key]
    files: list[UrlFile | HubFile] = [_clip_file()] if metric.clip else []
    return files + [_pyiqa_file(metric, name) for name in metric.published]


def _first_files(key: str) -> list[UrlFile | HubFile]:
    metric = _METRICS[key]
    files: list[UrlFile | HubFile] = [_pyiqa_file(metric, name) for name in metric.first]
    if metric.backbone is not None:
        repo = timm.get_pretrained_cfg(metric.backbone).hf_hub_id
        files.append(HubFile(repo, "model.safetensors"))
    if key == "dbcnn":
        files.append(UrlFile(Path(torch.hub.get_dir(), "checkpoints", Path(_VGG16).name), _VGG16))
    return files


def _pyiqa_file(metric: _Metric, name: str) -> UrlFile:
    with _quietly(name):
        url = importlib.import_module(f"pyiqa.archs.{metric.module}").default_model_urls[name]
        folder = importlib.import_module("pyiqa.utils.download_util").DEFAULT_CACHE_DIR
    return UrlFile(Path(folder, url.rsplit("/", 1)[-1]), url, also=metric.also)


def _clip_file() -> UrlFile:
    with _quietly(_CLIP):
        url = importlib.import_module("pyiqa.archs.clip_model")._MODELS[_CLIP]
    *_, sha256, name = url.split("/")
    return UrlFile(Path(torch.hub.get_dir(), "clip", name), url, sha256)


def _version() -> str:
    return f"pyiqa {importlib.metadata.version('pyiqa')}"


@contextlib.contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Keep pyiqa's words off stdout, and say what to do when its files do not fit."""
    logging.getLogger("pyiqa").setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ImportError as error:
        raise ConfigError(f"pyiqa cannot be used here: {error}.") from error
    except Exception as error:  # torch, scipy and pickle raise errors of every kind on wrong files
        raise CheckpointError(
            f"pyiqa cannot load {what}: {error!r}. Remove its weight files and fetch them again."
        ) from error


@contextlib.contextmanager
def _without_backbones() -> Iterator[None]:
    """Spare the download of backbones that the published file holds too, and replaces strictly."""
    create_model, vgg16 = timm.create_model, torchvision.models.vgg16
    timm.create_model = lambda *names, **settings: create_model(
        *names, **{**settings, "pretrained": False}
    )
    torchvision.models.vgg16 = lambda **settings: vgg16(**{**settings, "weights": None})
    try:
        yield
    finally:
        timm.create_model, torchvision.models.vgg16 = create_model, vgg16
