"""The smallest scorer that has every part, and a card for its checkpoint."""

import dataclasses
from typing import Any

import torch

from ma_agiqa.checkpoints import ModelCard
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

CONFIG = MAAGIQAConfig(
    backbone="vit_tiny_patch16_224",
    backbone_args={"embed_dim": 16, "depth": 1, "num_heads": 2},
    feature_blocks=(0,),
    num_transposed_attention=1,
    swin_depths=(1,),
    swin_heads=2,
    swin_window=7,
    swin_mlp_dim=16,
    semantic_dim=8,
    gate_activation="sigmoid",
)

CARD = ModelCard(
    name="tiny",
    preset="demo",
    dataset="none",
    mos_min=0.0,
    mos_max=5.0,
    mos_quantiles=tuple(i / 20 for i in range(101)),
    created="2024-05-01T12:00:00+00:00",
    note="A test.",
    embedder={"source": "demo", "prompts": {"semantic": [1, -200, 2]}},
    training={"optimization": {"epochs": 1}},
    split_sha256="00",
    metrics={"split": "test", "srcc": 0.5, "count": 7},
)


def make_scorer(**changes: Any) -> MAAGIQA:
    """Build a scorer with the same random weights every time.

    Args:
        changes: settings of the configuration that differ from `CONFIG`.
    """
    torch.manual_seed(0)
    return MAAGIQA(dataclasses.replace(CONFIG, **changes)).eval()
