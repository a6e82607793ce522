"""A network of others that scores images, and what it sees of them."""

import numpy as np
import torch
import torchvision.transforms.functional as F
from torch import Tensor, nn

from ma_agiqa.images.views import RGB


def as_pixels(rgb: RGB) -> Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float() / 255


class Network(nn.Module):
    """A network with a score per image, which is trained here.

    Args:
        module: maps pixels (B, 3, H, W) in 0..1 to B scores.
        crop: side of the square that it is trained on; smaller images are enlarged.
        keeps_mode: the network stays in evaluation mode while it is trained, because its training
            mode expects input of another kind; for networks in which the modes are otherwise equal.
    """

    origin = "trained here"

    def __init__(self, module: nn.Module, crop: int, keeps_mode: bool = False) -> None:
        super().__init__()
        self.module, self.crop, self._keeps_mode = module, crop, keeps_mode

    def train(self, mode: bool = True) -> "Network":
        """Choose training or evaluation mode."""
        super().train(mode)
        if self._keeps_mode:
            self.module.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W) in 0..1 to scores (B,)."""
        return self.module(pixels).flatten()

    def view(self, rgb: RGB, random: np.random.Generator | None = None) -> Tensor:
        """What it sees of an image, (3, H, W) in 0..1.

        Args:
            rgb: uint8 (H, W, 3).
            random: draws the square of a training, which is flipped from left to right half of the
                time; None gives the whole image.
        """
        pixels = as_pixels(rgb)
        if min(pixels.shape[1:]) < self.crop:
            pixels = F.resize(pixels, [self.crop], antialias=True)
        if random is None:
            return pixels
        top, left = (int(random.integers(side - self.crop + 1)) for side in pixels.shape[1:])
        pixels = pixels[:, top : top + self.crop, left : left + self.crop]
        return F.hflip(pixels) if random.random() < 0.5 else pixels

    @torch.inference_mode()
    def score(self, rgb: RGB) -> float:
        """Score one image, uint8 (H, W, 3)."""
        device = next(self.parameters()).device
        return float(self(self.view(rgb)[None].to(device)))
