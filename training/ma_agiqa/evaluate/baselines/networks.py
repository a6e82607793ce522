"""A network that scores images, with the views of an image that it takes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.functional as F
from torch import Tensor, nn
from torchvision.transforms import RandomCrop

from ma_agiqa.images.views import RGB

__all__ = ["Network", "View", "as_pixels"]


def as_pixels(rgb: RGB) -> Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float() / 255


@dataclass(frozen=True)
class View:
    """What a network sees of an image, as its authors' code shows it.

    Attributes:
        square: side to which the image is resized, whatever its shape; 0 leaves it.
        short_side: side to which the shorter side is resized; 0 leaves it.
        crop: side of the random crop in training; 0 for the whole view.
        five_crops: score the corners and the center at that size, and take the mean; otherwise
            the whole view goes to the network.
        flip: turn left and right round in training, one time in two.
    """

    square: int = 0
    short_side: int = 0
    crop: int = 0
    five_crops: bool = False
    flip: bool = True

    def for_training(self, rgb: RGB) -> Tensor:
        """One view (3, H, W) in 0..1, drawn with torch's random numbers."""
        pixels = self._resized(as_pixels(rgb))
        if self.crop:
            top, left, height, width = RandomCrop.get_params(pixels, (self.crop, self.crop))
            pixels = F.crop(pixels, top, left, height, width)
        if self.flip and torch.rand(()) < 0.5:
            pixels = F.hflip(pixels)
        return pixels

    def for_scoring(self, rgb: RGB) -> Tensor:
        """All views (N, 3, H, W) in 0..1."""
        pixels = self._resized(as_pixels(rgb))
        if self.five_crops:
            return torch.stack(F.five_crop(pixels, [self.crop, self.crop]))
        return pixels[None]

    def _resized(self, pixels: Tensor) -> Tensor:
        if self.square:
            return F.resize(pixels, [self.square, self.square], antialias=True)
        shorter = min(pixels.shape[1:])
        if self.short_side or shorter < self.crop:
            return F.resize(pixels, [self.short_side or self.crop], antialias=True)
        return pixels


class Network(nn.Module):
    """A network of others, with a score per image.

    Args:
        module: its network.
        view: of the images.
        score: takes the score (B,) from what the network says of pixels (B, 3, H, W) in 0..1.
        keeps_mode: the network stays in evaluation mode while it is trained, because its training
            mode expects input of another kind; for networks in which the modes are otherwise equal.
    """

    def __init__(
        self,
        module: nn.Module,
        view: View,
        score: Callable[[nn.Module, Tensor], Tensor],
        keeps_mode: bool = False,
    ) -> None:
        super().__init__()
        self.module, self.view = module, view
        self._score, self._keeps_mode = score, keeps_mode

    def train(self, mode: bool = True) -> "Network":
        """Choose training or evaluation mode."""
        super().train(mode)
        if self._keeps_mode:
            self.module.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W) in 0..1 to scores (B,)."""
        return self._score(self.module, pixels)

    @torch.inference_mode()
    def score(self, rgb: RGB) -> float:
        """Score one image, uint8 (H, W, 3): the mean over its views."""
        device = next(self.parameters()).device
        return float(self(self.view.for_scoring(rgb).to(device)).mean())
