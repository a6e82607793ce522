"""A small Vision Transformer for training with few images, under timm's model registry.

The published backbone cuts the image into patches with one linear map and learned what to look for
from millions of images. Here a fixed stem describes each patch by how strong its spatial
frequencies are, which is what blur, noise, compression and holes change; only what follows is
learned.
Importing this module makes the name known to `timm.create_model`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import VisionTransformer, register_model
from torch import Tensor, nn

_WINDOW, _STRIDE = 8, 4  # pixels of a window whose frequencies are measured, and between windows
_CHROMA_ORDER = 3  # color varies slowly: only frequencies below this order are measured
_STRENGTH = (-3.5, 0.65)  # average and deviation of log-amplitudes, over the synthetic set
_SPREAD = (0.55, 0.25)  # the same of their deviations within a patch
_FLOOR = 0.01  # added to amplitudes before their logarithm; pixel values are in -1..1
_OPPONENT = ((0.299, 0.587, 0.114), (0.5, 0.0, -0.5), (-0.25, 0.5, -0.25))  # Y, red-blue, green


class SpectralPatchEmbed(nn.Module):
    """Patches as tokens: mean and spread of the log-amplitudes of local cosine transforms.

    Args:
        img_size: side of the image in pixels.
        patch_size: side of a patch in pixels, a multiple of 4.
        in_chans: must be 3.
        embed_dim: width of a token.
        arguments: further arguments of timm, which are ignored.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 64,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.stride, self.padding, self.floor = _STRIDE, (_WINDOW - _STRIDE) // 2, _FLOOR
        self.windows = patch_size // _STRIDE
        self.strength, self.spread = _STRENGTH, _SPREAD
        filters = _filters()
        self.filters: Tensor
        self.register_buffer("filters", filters, persistent=False)
        self.proj = nn.Conv2d(2 * len(filters) + in_chans, embed_dim, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 3, S, S) in -1..1 to (B, patches, embed_dim)."""
        edges = (self.padding, self.padding, self.padding, self.padding)
        waves = F.conv2d(F.pad(pixels, edges, mode="reflect"), self.filters, stride=self.stride)
        strength = (waves.abs() + self.floor).log()
        mean = F.avg_pool2d(strength, self.windows)
        variance = (F.avg_pool2d(strength.square(), self.windows) - mean.square()).clamp(min=1e-4)
        color = F.avg_pool2d(pixels, self.windows * self.stride)
        mean = (mean - self.strength[0]) / self.strength[1]
        spread = (variance.sqrt() - self.spread[0]) / self.spread[1]
        tokens = self.proj(torch.cat([mean, spread, color], dim=1))
        return tokens.flatten(2).transpose(1, 2)


def _filters() -> Tensor:
    """Cosine transforms of a window without its mean: all of luminance, the slow ones of color."""
    steps = torch.arange(_WINDOW, dtype=torch.float64)
    waves = torch.cos(torch.pi * steps[:, None] * (steps + 0.5) / _WINDOW)  # (frequency, pixel)
    waves = waves / waves.norm(dim=1, keepdim=True)
    rows = []
    for channel, color in enumerate(torch.tensor(_OPPONENT, dtype=torch.float64)):
        for u in range(_WINDOW):
            for v in range(_WINDOW):
                if u + v > 0 and (channel == 0 or u + v < _CHROMA_ORDER):
                    rows.append(color[:, None, None] * torch.outer(waves[u], waves[v]))
    return torch.stack(rows).float()


@register_model
def vit_spectral_patch16_224(pretrained: bool = False, **arguments: Any) -> VisionTransformer:
    """A Vision Transformer on `SpectralPatchEmbed`; there are no published weights."""
    if pretrained:
        raise RuntimeError("vit_spectral_patch16_224 has no pretrained weights.")
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(name, None)
    return VisionTransformer(embed_layer=SpectralPatchEmbed, **arguments)
