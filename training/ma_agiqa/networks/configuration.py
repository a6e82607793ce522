"""Sizes and choices of the scorer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ma_agiqa.tensors import GATE_ORDER, QUALITY_SIZE


@dataclass(frozen=True)
class MAAGIQAConfig:
    """Sizes and choices of the scorer; the defaults are those of the authors' checkpoint.

    Attributes:
        backbone: name of a timm ViT with a square patch grid, or of an EfficientNet-Lite
            ("tf_efficientnet_lite0").
        backbone_args: further arguments of `timm.create_model`, for small backbones.
        feature_blocks: indices of the ViT blocks, or stages of the EfficientNet, whose outputs feed
            MANIQA, ascending.
        image_size: side of the quality view in pixels.
        num_transposed_attention: number of transposed-attention blocks in each stage.
        swin_depths: number of Swin blocks in each Swin layer of a stage.
        swin_heads: number of attention heads in a Swin block.
        swin_window: side of a Swin block's windows in patches.
        swin_mlp_dim: hidden width of a Swin block's MLP.
        swin_scale: weight of a Swin layer's output in its residual connection.
        dropout: probability of every dropout layer.
        drop_path: probability of skipping a Swin block's branch in training.
        semantic_dim: width of a prompt embedding.
        gate_activation: "none" (released code), "sigmoid" (paper) or "softmax".
        fusion: "moe" or "concat".
        inputs: which of semantic, coherence and quality are used; without quality there is no
            MANIQA.
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
