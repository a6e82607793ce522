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
        return self.score_and_describe(quality_view, semantic, coherence)[0]

    def score_and_describe(
        self, quality_view: Tensor, semantic: Tensor, coherence: Tensor
    ) -> tuple[ScorerOutput, Tensor]:
        """Score a batch, and describe its images for `calibration`.

        Args:
            quality_view, semantic, coherence: as `forward` takes them.

        Returns:
            The outputs, and the pooled tokens of the backbone (B, 2 * channels), see
            `maniqa.pool_tokens`; without quality among the inputs these are (B, 0).
        """
        if self.maniqa is not None:
            pixels = (quality_view.permute(0, 3, 1, 2).to(semantic.dtype) / 255 - 0.5) / 0.5
            patch_score, patch_weight, description = self.maniqa(pixels)
        else:
            patch_score = semantic.new_zeros((semantic.size(0), self.grid * self.grid))
            patch_weight, description = patch_score, patch_score[:, :0]
        quality = patch_score * patch_weight  # Eq. (2)
        score, gate = self.fusion(quality, semantic, coherence)
        shape = (self.grid, self.grid)
        output = ScorerOutput(
            score, gate, patch_score.unflatten(1, shape), patch_weight.unflatten(1, shape)
        )
        return output, description
