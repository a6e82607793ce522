"""Sizes of mPLUG-Owl2, under the keys of the published config.json."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

from ma_agiqa.errors import ConfigError


@dataclass(frozen=True)
class VisionConfig:
    """`visual_config.visual_model`; the defaults are the published sizes."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    layer_norm_eps: float = 1e-6
    hidden_act: str = "quick_gelu"
    use_cls_token: bool = True
    use_post_layernorm: bool = True

    def __post_init__(self) -> None:
        fixed = (self.hidden_act, self.use_cls_token, self.use_post_layernorm)
        if fixed != ("quick_gelu", True, True):
            raise ConfigError(
                f"visual_model has (hidden_act, use_cls_token, use_post_layernorm) = {fixed}; "
                "mPLUG-Owl2 has ('quick_gelu', True, True). Other models are not supported."
            )

    @property
    def grid_size(self) -> int:
        """Patches along a side of the image."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class AbstractorConfig:
    """`visual_config.visual_abstractor`; the defaults are the published sizes."""

    hidden_size: int = 1024
    encoder_hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    num_learnable_queries: int = 64
    grid_size: int = 32
    layer_norm_eps: float = 1e-6


@strict
class MPlugOwl2Config(LlamaConfig):
    """The language model's sizes as in `LlamaConfig`, and `visual_config`.

    `visual_config` is the mapping `{"visual_model": ..., "visual_abstractor": ...}` of the
    published config.json; keys that do not change the function are kept and ignored.
    """

    model_type = "mplug_owl2"

    visual_config: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        visual = copy.deepcopy(dict(self.visual_config or {}))
        visual.setdefault("visual_model", {})
        visual.setdefault("visual_abstractor", {})
        self.visual_config = visual
        super().__post_init__(**kwargs)

    @property
    def vision(self) -> VisionConfig:
        """Sizes of the vision transformer."""
        return _pick(VisionConfig, (self.visual_config or {})["visual_model"])

    @property
    def abstractor(self) -> AbstractorConfig:
        """Sizes of the visual abstractor."""
        return _pick(AbstractorConfig, (self.visual_config or {})["visual_abstractor"])

    @property
    def num_image_tokens(self) -> int:
        """Positions that an image takes in the language model (paper: 64 queries + 1)."""
        return self.abstractor.num_learnable_queries + 1


def _pick(kind: type, values: Mapping[str, Any]) -> Any:
    known = {item.name for item in dataclasses.fields(kind)}
    return kind(
        **{name: value for name, value in values.items() if name in known and value is not None}
    )
