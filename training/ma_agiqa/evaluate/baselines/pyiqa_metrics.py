"""Methods of Table 1 by pyiqa, with the weights that it publishes and fetches.

pyiqa's license (PolyForm Noncommercial 1.0.0) forbids commercial use, and its dependencies need
numpy 2, which the embedded server cannot have: it is an extra for an environment of its own.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import socket
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from huggingface_hub import constants

from ma_agiqa.errors import CheckpointError, ConfigError, DataError
from ma_agiqa.evaluate.baselines.networks import Network, as_pixels
from ma_agiqa.images.views import RGB

_INSTALL = (
    "pyiqa is not installed. It needs numpy 2, so give it an environment without the embedded "
    "server: pip install -e './training[train,pyiqa]' (its license, PolyForm Noncommercial 1.0.0, "
    "forbids commercial use)."
)

# Side of the square that each network is trained on; MANIQA itself draws 224 pixels of it.
_CROPS = {"hyperiqa": 224, "maniqa": 256, "dbcnn": 384, "musiq": 384}


def is_installed() -> bool:
    """Whether pyiqa can be imported."""
    return importlib.util.find_spec("pyiqa") is not None


class PyiqaScorer:
    """A metric of pyiqa with its published weights, on whole images.

    Args:
        key: name of the method in pyiqa.
        device: where it runs.
        download: let pyiqa fetch the weights that it lacks.

    Raises:
        ConfigError: pyiqa is not installed.
        CheckpointError: its weights are missing or not what it expects.
    """

    def __init__(self, key: str, device: str, download: bool) -> None:
        self._metric = _create(key, device, download)
        self.origin = f"pyiqa {importlib.metadata.version('pyiqa')}, published weights"

    @torch.inference_mode()
    def score(self, rgb: RGB) -> float:
        """Score an image, uint8 (H, W, 3).

        Raises:
            DataError: the method cannot measure the image, for instance because it is too small.
        """
        try:
            return float(self._metric(as_pixels(rgb)[None]))
        except (ArithmeticError, IndexError, RuntimeError, ValueError) as error:
            size = f"{rgb.shape[1]}x{rgb.shape[0]} pixels"
            raise DataError(f"pyiqa cannot measure this image of {size}: {error}.") from error


def load_first_weights(key: str, device: str, download: bool) -> Network:
    """A method's network as a training begins with it.

    HyperIQA and MANIQA begin with timm's backbone, DB-CNN with torchvision's and its own S-CNN,
    MUSIQ with its published weights: that is what their authors' codes and pyiqa have.

    Raises:
        ConfigError, CheckpointError: as `PyiqaScorer`.
    """
    arguments: dict[str, Any] = {} if key == "musiq" else {"pretrained": False}
    network = _create(key, device, download, **arguments).net
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # pyiqa holds some of DB-CNN's still
    return Network(network, _CROPS[key], keeps_mode=key == "musiq").to(device)


def _create(key: str, device: str, download: bool, **arguments: Any) -> Any:
    """Let pyiqa load a metric, and say what to do if it cannot."""
    if not is_installed():
        raise ConfigError(_INSTALL)
    logging.getLogger("pyiqa").setLevel(logging.WARNING)
    allowed = contextlib.nullcontext() if download else _without_network()
    try:
        with contextlib.redirect_stdout(sys.stderr), allowed:  # results belong on stdout
            create = importlib.import_module("pyiqa").create_metric
            return create(key, device=torch.device(device), **arguments)
    except ImportError as error:
        raise ConfigError(f"pyiqa cannot be used here: {error}.") from error
    except Exception as error:  # torch, scipy and pickle raise errors of every kind on wrong files
        advice = (
            "Remove its weight files and fetch them again."
            if download
            else "Give --download to fetch what is missing, or put the files where pyiqa looks."
        )
        raise CheckpointError(f"pyiqa cannot load {key}: {error!r}. {advice}") from error


@contextlib.contextmanager
def _without_network() -> Iterator[None]:
    """Keep pyiqa, which fetches weights without asking, from doing so."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError("the weights are not on this machine")

    before = constants.HF_HUB_OFFLINE, socket.getaddrinfo
    constants.HF_HUB_OFFLINE, socket.getaddrinfo = True, refuse
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, socket.getaddrinfo = before
