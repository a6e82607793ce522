"""MA-AGIQA's scorer: MANIQA and the adaptive fusion (paper Fig. 3), without the frozen LMM."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.fusion import AdaptiveFusion
from ma_agiqa.networks.maniqa import MANIQA, NO_WEIGHTS, ViTFeatures
from ma_agiqa.tensors import GATE_ORDER, QUALITY_SIZE


@dataclass(frozen=True)
class MAAGIQAConfig:
    """Sizes and choices of the scorer; the defaults are those of the authors' checkpoint.

    Attributes:
        backbone: name of a timm ViT with a square patch grid.
        backbone_args: further arguments of `timm.create_model`, for small backbones.
        feature_blocks: ViT blocks whose outputs feed MANIQA.
        image_size: side of the quality view in pixels.
        num_transposed_attention: such blocks in each stage.
        swin_depths, swin_heads, swin_window, swin_mlp_dim, swin_scale: of the Swin layers.
        dropout: of every dropout layer.
        drop_path: of the Swin blocks.
        semantic_dim: width of a prompt embedding.
        gate_activation: "none" (released code), "sigmoid" (paper) or "softmax".
        fusion: "moe" or "concat".
        inputs: which of semantic, coherence, quality are used; MANIQA is left out without quality.
    """

    backbone: str = "vit_base_patch8_224"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    feature_blocks: tuple[int, ...] = (6, 7, 8, 9)
    image_size: int = QUALITY_SIZE
    num_transposed_attention: int = 2
    swin_depths: tuple[int, ...] = (2, 2)
    swin_heads: int = 4
    swin_window: int = 4
    swin_mlp_dim: int = 768
    swin_scale: float = 0.8
    dropout: float = 0.1
    drop_path: float = 0.1
    semantic_dim: int = 4096
    gate_activation: str = "none"
    fusion: str = "moe"
    inputs: tuple[str, ...] = GATE_ORDER

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MAAGIQAConfig":
        """Build from plain values, as YAML gives them.

        Raises:
            ConfigError: a name that is no setting; the message lists those that are.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                f"Unknown scorer settings {unknown}; the settings are {sorted(known)}."
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain values for YAML or JSON."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


class ScorerOutput(NamedTuple):
    """What the scorer says about a batch of images; all float32.

    Attributes:
        score: predicted MOS, (B, 1), on the scale of the training data (0-5).
        gate: weights of semantic, coherence and quality (Eq. 4), (B, 3).
        patch_score: S of Eq. (2), (B, grid, grid), >= 0.
        patch_weight: W of Eq. (2), (B, grid, grid), in (0, 1).

    Both maps are 0 where quality is none of the inputs.
    """

    score: Tensor
    gate: Tensor
    patch_score: Tensor
    patch_weight: Tensor


class MAAGIQA(nn.Module):
    """The trainable part of MA-AGIQA (paper §3.1 and §3.3); TorchScript-able.

    Args:
        config: sizes and choices.
        backbone_weights: first weights of the ViT, see `maniqa.ViTFeatures`.

    Raises:
        ConfigError: an impossible setting, or backbone weights that cannot be had.
    """

    def __init__(self, config: MAAGIQAConfig, backbone_weights: str = NO_WEIGHTS) -> None:
        super().__init__()
        self.config = config
        backbone = ViTFeatures(
            config.backbone,
            config.feature_blocks,
            config.image_size,
            backbone_weights,
            dict(config.backbone_args),
        )
        self.grid: int = backbone.grid
        self.maniqa: MANIQA | None = None
        if "quality" in config.inputs:
            self.maniqa = MANIQA(
                backbone,
                backbone.vit.embed_dim,
                config.num_transposed_attention,
                config.swin_depths,
                config.swin_heads,
                config.swin_window,
                config.swin_mlp_dim,
                config.swin_scale,
                config.dropout,
                config.drop_path,
            )
        self.fusion = AdaptiveFusion(
            backbone.grid**2,
            config.semantic_dim,
            config.inputs,
            config.fusion,
            config.gate_activation,
            config.dropout,
        )

    def forward(self, quality_view: Tensor, semantic: Tensor, coherence: Tensor) -> ScorerOutput:
        """Score a batch.

        Args:
            quality_view: uint8 (B, image_size, image_size, 3), RGB.
            semantic, coherence: prompt embeddings (Eq. 3), float32 (B, semantic_dim).
        """
        if self.maniqa is not None:
            pixels = (quality_view.permute(0, 3, 1, 2).to(semantic.dtype) / 255 - 0.5) / 0.5
            patch_score, patch_weight = self.maniqa(pixels)
        else:
            patch_score = semantic.new_zeros((semantic.size(0), self.grid**2))
            patch_weight = patch_score
        quality = patch_score * patch_weight  # Eq. (2)
        score, gate = self.fusion(quality, semantic, coherence)
        shape = (self.grid, self.grid)
        return ScorerOutput(
            score, gate, patch_score.unflatten(1, shape), patch_weight.unflatten(1, shape)
        )
