"""MANIQA as a quality-aware feature extractor (paper §3.1, Fig. 3 left).

    view -> ViT blocks 6-9, concatenated -> stage 1 -> stage 2 -> patch scores S, patch weights W

A stage mixes channels (transposed attention), reduces their number to a quarter or a half (1x1
convolution) and mixes neighboring patches (Swin).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.configuration import MAAGIQAConfig

PRETRAINED = "timm"
"""Initial weights of the backbone: those that timm publishes, from the hub or its cache."""

NO_WEIGHTS = "none"
"""Initial weights of the backbone: random ones."""


def create_network(name: str, weights: str, **model_args: Any) -> nn.Module:
    """Make a network of timm without its head.

    Args:
        name: timm's name of it.
        weights: `PRETRAINED`, `NO_WEIGHTS` or the path of a file of timm weights.
        model_args: further arguments of `timm.create_model`.

    Raises:
        ConfigError: there is no such network, or the weights cannot be loaded or do not fit.
    """
    if weights not in (PRETRAINED, NO_WEIGHTS):
        if not Path(weights).is_file():
            raise ConfigError(
                f"backbone_weights: there is no file {weights}. Give a weights file of {name!r}, "
                f"{PRETRAINED!r} to fetch timm's, or {NO_WEIGHTS!r} to start from random ones."
            )
        model_args["pretrained_cfg_overlay"] = {"file": weights}
    try:
        return timm.create_model(
            name, pretrained=weights != NO_WEIGHTS, num_classes=0, **model_args
        )
    except Exception as error:  # timm, the hub, the network and the file formats raise all kinds
        raise ConfigError(_explain(name, weights, model_args, error)) from error


def _explain(name: str, weights: str, model_args: Mapping[str, Any], error: Exception) -> str:
    if weights == PRETRAINED:
        return (
            f"The pretrained weights of {name!r} could not be downloaded: {error} On a machine "
            "without a network give --backbone-weights FILE with their file (timm's "
            f"model.safetensors), or --backbone-weights {NO_WEIGHTS} to start from random weights, "
            "which gives a worse scorer."
        )
    if weights != NO_WEIGHTS:
        return f"backbone_weights: {weights} does not hold weights of {name!r}: {error}"
    return (
        f"timm cannot make the backbone {name!r} with {dict(model_args)}: {error}. A Vision "
        "Transformer is needed, such as 'vit_base_patch8_224'."
    )


def fuse_attention(module: nn.Module, fused: bool) -> None:
    """Let timm's attention use fused kernels, or compute in the order of the official code.

    The transposed attention amplifies rounding: with reference weights the fused kernels move
    the score by 3 %, and so does computing in float64.
    """
    part: Any
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused


class ViTFeatures(nn.Module):
    """Patch tokens of several ViT blocks, concatenated along channels.

    Blocks after the last of `blocks`, the final norm and the head feed nothing and are dropped.

    Args:
        name: a timm Vision Transformer with a square patch grid.
        blocks: indices of the blocks whose outputs are taken, ascending.
        image_size: side of the input in pixels.
        weights: `PRETRAINED`, `NO_WEIGHTS` or the path of a file of timm weights.
        model_args: further arguments of `timm.create_model`.

    Raises:
        ConfigError: the model is no ViT with a square grid or has too few blocks, or the weights
            cannot be loaded or do not fit.
    """

    def __init__(
        self,
        name: str,
        blocks: tuple[int, ...],
        image_size: int,
        weights: str = NO_WEIGHTS,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        vit = create_network(name, weights, img_size=image_size, **(model_args or {}))
        if not isinstance(vit, VisionTransformer):
            raise ConfigError(
                f"The backbone {name!r} is a {type(vit).__name__}; a Vision Transformer of timm "
                "such as 'vit_base_patch8_224', or a 'tf_efficientnet_lite0', is needed."
            )
        height, width = vit.patch_embed.grid_size
        if height != width or not 0 <= min(blocks) <= max(blocks) < len(vit.blocks):
            raise ConfigError(
                f"The backbone {name!r} has {len(vit.blocks)} blocks and a {height}x{width} patch "
                f"grid; feature_blocks {tuple(blocks)} and a square grid are needed."
            )
        vit.prune_intermediate_layers(list(blocks), prune_norm=True, prune_head=True)
        fuse_attention(vit, False)
        self.vit = vit
        self.blocks = list(blocks)
        self.grid: int = height
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.width: int = vit.embed_dim
        self.channels: int = vit.embed_dim * len(blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 3, image_size, image_size), normalized, to (B, grid * grid, channels)."""
        tokens = self.vit.patch_embed(pixels)
        tokens = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(tokens)))
        features: list[Tensor] = []
        for index, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            if index in self.blocks:
                features.append(tokens[:, self.num_prefix_tokens :])
        return torch.cat(features, dim=2)


class TransposedAttention(nn.Module):
    """Self-attention between channels, the patches being the coordinates.

    The result is transposed and then reinterpreted in the input's shape, which mixes patches and
    channels; the published weights were trained that way.

    Args:
        num_patches: length of a channel's vector.
        dropout: probability of dropping a value of the result.
    """

    def __init__(self, num_patches: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(num_patches, num_patches)
        self.key = nn.Linear(num_patches, num_patches)
        self.value = nn.Linear(num_patches, num_patches)
        self.scale = num_patches**-0.5
        self.dropout = nn.Dropout(dropout)

    def forward(self, channels: Tensor) -> Tensor:
        """Map (B, channels, patches) to the same shape."""
        similarity = self.query(channels) @ self.key(channels).transpose(1, 2) * self.scale
        mixed = similarity.softmax(dim=2) @ self.value(channels)
        mixed = mixed.transpose(1, 2).reshape(channels.shape)  # (B, N, C) read as (B, C, N)
        return self.dropout(mixed) + channels


class SwinLayer(nn.Module):
    """Swin blocks with alternating shift, then a 3x3 convolution and ReLU."""

    def __init__(
        self, dim: int, grid: int, drop_paths: Sequence[float], config: MAAGIQAConfig
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(
                    dim,
                    input_resolution=(grid, grid),
                    num_heads=config.swin_heads,
                    window_size=config.swin_window,
                    shift_size=0 if index % 2 == 0 else config.swin_window // 2,
                    mlp_ratio=config.swin_mlp_dim / dim,
                    drop_path=drop_path,
                )
                for index, drop_path in enumerate(drop_paths)
            )
        )
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        fuse_attention(self.blocks, False)

    def forward(self, patches: Tensor) -> Tensor:
        """Map (B, grid, grid, dim) to the same shape."""
        patches = self.blocks(patches)
        return F.relu(self.conv(patches.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class FeatureStage(nn.Module):
    """One of MANIQA's two stages: (B, N, in_dim) -> (B, N, out_dim)."""

    def __init__(self, in_dim: int, out_dim: int, grid: int, config: MAAGIQAConfig) -> None:
        super().__init__()
        self.grid = grid
        self.scale = config.swin_scale
        self.attention = nn.Sequential(
            *(
                TransposedAttention(grid * grid, config.dropout)
                for _ in range(config.num_transposed_attention)
            )
        )
        self.reduce = nn.Conv2d(in_dim, out_dim, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.swin = nn.ModuleList(
            SwinLayer(out_dim, grid, drop_paths, config) for drop_paths in config.drop_paths
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Map (B, N, in_dim) to (B, N, out_dim)."""
        channels = self.attention(patches.transpose(1, 2))  # (B, in_dim, N)
        image = channels.unflatten(2, (self.grid, self.grid))
        image = self.dropout(self.reduce(image)).permute(0, 2, 3, 1)  # (B, grid, grid, out_dim)
        for layer in self.swin:
            image = self.scale * layer(image) + image
        return image.flatten(1, 2)


def _patch_head(dim: int, dropout: float, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, 1), activation
    )


def pool_tokens(tokens: Tensor, dim: int) -> Tensor:
    """Describe an image by the mean and the mean deviation of each channel over its patches.

    Args:
        tokens: (B, N, channels) or (B, channels, N).
        dim: the dimension of the patches, 1 or 2.

    Returns:
        Float32 (B, 2 * channels).
    """
    tokens = tokens.float()
    mean = tokens.mean(dim, keepdim=True)
    deviation = (tokens - mean).abs().mean(dim)
    return torch.cat([mean.squeeze(dim), deviation], dim=1)


class MANIQA(nn.Module):
    """Score and weight of every patch, the S and W of paper Eq. (1) and (2).

    Args:
        backbone: gives the tokens, as `ViTFeatures` or `convolutional.CNNFeatures`.
        config: sizes; stage 1 gives the backbone's width (paper: 768), stage 2 half of it.
    """

    def __init__(self, backbone: Any, config: MAAGIQAConfig) -> None:
        super().__init__()
        self.backbone = backbone
        width: int = backbone.width
        self.stage1 = FeatureStage(backbone.channels, width, backbone.grid, config)
        self.stage2 = FeatureStage(width, width // 2, backbone.grid, config)
        self.score_head = _patch_head(width // 2, config.dropout, nn.ReLU())
        self.weight_head = _patch_head(width // 2, config.dropout, nn.Sigmoid())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score patches.

        Args:
            pixels: (B, 3, H, W), normalized.

        Returns:
            S >= 0 and 0 < W < 1, each (B, grid * grid), and the pooled tokens of the backbone,
            see `pool_tokens`.
        """
        tokens = self.backbone(pixels)
        patches = self.stage2(self.stage1(tokens))
        score, weight = self.score_head(patches).squeeze(2), self.weight_head(patches).squeeze(2)
        return score, weight, pool_tokens(tokens, 1)
