"""Sizes and choices of the scorer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ma_agiqa.errors import ConfigError
from ma_agiqa.tensors import GATE_ORDER, QUALITY_SIZE

DROP_PATH_SCHEDULES = ("constant", "linear")


@dataclass(frozen=True)
class MAAGIQAConfig:
    """Sizes and choices of the scorer; the defaults are those of the authors' checkpoint.

    Attributes:
        backbone: name of a timm ViT with a square patch grid, or of an EfficientNet-Lite
            ("tf_efficientnet_lite0").
        backbone_args: further arguments of `timm.create_model`, for small backbones.
        feature_blocks: indices of the ViT blocks, or stages of the EfficientNet, whose outputs feed
            MANIQA, ascending.
        feature_grid: side of the patch grid to which an EfficientNet's maps are averaged; by
            default that of the last stage.
        image_size: side of the quality view in pixels.
        num_transposed_attention: number of transposed-attention blocks in each stage.
        swin_depths: number of Swin blocks in each Swin layer of a stage.
        swin_heads: number of attention heads in a Swin block.
        swin_window: side of a Swin block's windows in patches.
        swin_mlp_dim: hidden width of a Swin block's MLP.
        swin_scale: weight of a Swin layer's output in its residual connection.
        dropout: probability of every dropout layer.
        drop_path: probability of skipping a Swin block's branch in training.
        drop_path_schedule: "constant": the same in all Swin blocks of a stage; "linear": rising
            from 0 in its first block to `drop_path` in its last one (released code).
        semantic_dim: width of a prompt embedding.
        gate_activation: "none" (released code), "sigmoid" (paper) or "softmax".
        fusion: "moe" or "concat".
        inputs: which of semantic, coherence and quality are used; without quality there is no
            MANIQA.
    """

    backbone: str = "vit_base_patch8_224"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    feature_blocks: tuple[int, ...] = (6, 7, 8, 9)
    feature_grid: int | None = None
    image_size: int = QUALITY_SIZE
    num_transposed_attention: int = 2
    swin_depths: tuple[int, ...] = (2, 2)
    swin_heads: int = 4
    swin_window: int = 4
    swin_mlp_dim: int = 768
    swin_scale: float = 0.8
    dropout: float = 0.1
    drop_path: float = 0.1
    drop_path_schedule: str = "constant"
    semantic_dim: int = 4096
    gate_activation: str = "none"
    fusion: str = "moe"
    inputs: tuple[str, ...] = GATE_ORDER

    def __post_init__(self) -> None:
        if self.drop_path_schedule not in DROP_PATH_SCHEDULES:
            raise ConfigError(
                f"scorer.drop_path_schedule is {self.drop_path_schedule!r}; choose one of "
                f"{DROP_PATH_SCHEDULES}."
            )
        for name in ("dropout", "drop_path"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ConfigError(f"scorer.{name} is {value}; it must be 0 or more, and below 1.")

    @property
    def drop_paths(self) -> tuple[tuple[float, ...], ...]:
        """Probability of each Swin block of a stage, by Swin layer."""
        count = sum(self.swin_depths)
        rates = [self.drop_path] * count
        if self.drop_path_schedule == "linear":
            rates = [self.drop_path * index / max(1, count - 1) for index in range(count)]
        blocks = iter(rates)
        return tuple(tuple(islice(blocks, depth)) for depth in self.swin_depths)
