"""MA-AGIQA's scorer: MANIQA and the adaptive fusion (paper Fig. 3), without the frozen LMM."""

from typing import NamedTuple

from torch import Tensor, nn

from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.configuration import MAAGIQAConfig
from ma_agiqa.networks.convolutional import CNNFeatures, is_convolutional
from ma_agiqa.networks.fusion import AdaptiveFusion
from ma_agiqa.networks.maniqa import MANIQA, NO_WEIGHTS, ViTFeatures


class ScorerOutput(NamedTuple):
    """The scorer's outputs for a batch of images; all float32.

    Attributes:
        score: predicted MOS, (B, 1), on the scale of the training data (0-5).
        gate: weights of semantic, coherence and quality (Eq. 4), (B, 3).
        patch_score: S of Eq. (2), (B, grid, grid), >= 0.
        patch_weight: W of Eq. (2), (B, grid, grid), in (0, 1).

    Both maps are 0 if quality is not among the inputs.
    """

    score: Tensor
    gate: Tensor
    patch_score: Tensor
    patch_weight: Tensor


class MAAGIQA(nn.Module):
    """The trainable part of MA-AGIQA (paper §3.1 and §3.3); TorchScript-able.

    Args:
        config: sizes and choices.
        backbone_weights: initial weights of the backbone, see `maniqa.ViTFeatures` and
            `convolutional.CNNFeatures`.

    Raises:
        ConfigError: an impossible setting, or backbone weights that cannot be loaded.
    """

    def __init__(self, config: MAAGIQAConfig, backbone_weights: str = NO_WEIGHTS) -> None:
        super().__init__()
        self.config = config
        arguments = (backbone_weights, dict(config.backbone_args))
        backbone: CNNFeatures | ViTFeatures
        if is_convolutional(config.backbone):
            backbone = CNNFeatures(
                config.backbone,
                config.feature_blocks,
                config.image_size,
                config.feature_grid,
                *arguments,
            )
        elif config.feature_grid is not None:
            raise ConfigError("scorer.feature_grid is for an EfficientNet-Lite; leave it out.")
        else:
            backbone = ViTFeatures(
                config.backbone, config.feature_blocks, config.image_size, *arguments
            )
        self.grid: int = backbone.grid
        self.maniqa: MANIQA | None = None
        if "quality" in config.inputs:
            self.maniqa = MANIQA(backbone, config)
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
            patch_score = semantic.new_zeros((semantic.size(0), self.grid * self.grid))
            patch_weight = patch_score
        quality = patch_score * patch_weight  # Eq. (2)
        score, gate = self.fusion(quality, semantic, coherence)
        shape = (self.grid, self.grid)
        return ScorerOutput(
            score, gate, patch_score.unflatten(1, shape), patch_weight.unflatten(1, shape)
        )
