"""mPLUG-Owl2 without its language head: pixels and token ids to the last hidden states."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.mplug_owl2.abstractor import AbstractorAttention, VisualAbstractor
from ma_agiqa.lmm.mplug_owl2.configuration import MPlugOwl2Config
from ma_agiqa.lmm.mplug_owl2.decoder import (
    DecoderLayer,
    KeyValues,
    RMSNorm,
    Segment,
    rotary_tables,
)
from ma_agiqa.lmm.mplug_owl2.vision import VisionEmbeddings, VisionModel
from ma_agiqa.networks.exact_loading import load_exactly, refuse

IMAGE_TOKEN_ID = -200
"""Stands for the image in a list of token ids."""

UNUSED = (r"lm_head\.weight", r".*rotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Patterns of published names that embeddings do not need."""

_DERIVED = r".*\.attention\.[qk]_pos_embed"  # fixed tables: loaded if present, else computed


class MPlugOwl2Model(PreTrainedModel):
    """The published model `MAGAer13/mplug-owl2-llama2-7b`, at any size.

    Args:
        config: sizes.
    """

    config: MPlugOwl2Config
    config_class = MPlugOwl2Config
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    _no_split_modules = {"DecoderLayer", "VisionLayer"}  # noqa: RUF012  (as the base class)
    _keys_to_ignore_on_load_unexpected = list(UNUSED)  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [_DERIVED]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.vision_model = VisionModel(config.vision)
        self.visual_abstractor = VisualAbstractor(config.abstractor, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, VisionEmbeddings):
            init.normal_(module.cls_token, std=std)
            init.normal_(module.position_embedding, std=std)
        elif isinstance(module, VisualAbstractor):
            init.normal_(module.query_embeds, std=std)
            init.normal_(module.vit_eos, std=std)
        elif isinstance(module, AbstractorAttention):
            for name, table in module.position_tables().items():
                init.copy_(getattr(module, name), table)

    @classmethod
    def from_official(
        cls, config: MPlugOwl2Config, state_dict: Mapping[str, Tensor]
    ) -> "MPlugOwl2Model":
        """Build from tensors under the published names.

        Raises:
            CheckpointError: names or shapes differ; it lists them.
        """
        model = cls(config)
        state = {
            name.removeprefix("model."): value
            for name, value in state_dict.items()
            if not any(re.fullmatch(pattern, name) for pattern in UNUSED)
        }
        tables = {k: v for k, v in model.state_dict().items() if re.fullmatch(_DERIVED, k)}
        load_exactly(model, {**tables, **state})
        return model.eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> "MPlugOwl2Model":
        """Load the hub's checkpoint or a local folder of it (.bin shards or safetensors).

        Takes the arguments of `transformers.PreTrainedModel.from_pretrained`.

        Raises:
            CheckpointError: tensors are missing, left over or of another shape; it lists them.
        """
        kwargs["output_loading_info"] = True
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, info = loaded
        faults = {
            "missing": sorted(info["missing_keys"]),
            "unexpected": sorted(info["unexpected_keys"]),
            "of another shape": sorted(str(item) for item in info["mismatched_keys"]),
        }
        refuse(faults, f"{pretrained_model_name_or_path} is not mPLUG-Owl2 of these sizes.")
        return model.eval()

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Turn images into the language model's tokens.

        Args:
            pixel_values: normalized RGB, (B, 3, S, S).

        Returns:
            (B, queries + 1, hidden).
        """
        return self.visual_abstractor(self.vision_model(pixel_values))

    def decode(
        self,
        embeddings: Tensor,
        image: Segment,
        positions: Tensor,
        mask: Tensor | None = None,
        past: KeyValues | None = None,
        presents: KeyValues | None = None,
    ) -> Tensor:
        """Run the decoder layers and the final norm.

        Args:
            embeddings: (B, T, hidden).
            image: which of the T are image tokens.
            positions: integer positions of the T, (B, 1, T) or (1, 1, T).
            mask: which keys a position sees, boolean (B, 1, T, past + T); causal if not given.
            past: keys and values that come before the sequence, of B sequences, or of P if every
                B / P sequences in a row have the same past.
            presents: a list that gets the keys and values of past and sequence, layer by layer;
                without it each layer's are dropped at once.

        Returns:
            The last hidden states (B, T, hidden).
        """
        hidden = embeddings
        rotary = rotary_tables(self.config, positions)
        for index, layer in enumerate(self.layers):
            before = past[index] if past is not None else None
            hidden, present = layer(hidden, image, rotary, mask, before)
            if presents is not None:
                presents.append(present)
        return self.norm(hidden)

    def forward(
        self, pixel_values: Tensor, input_ids: Sequence[int], presents: KeyValues | None = None
    ) -> Tensor:
        """Run one prompt on every image, in one plain pass over the full sequence.

        Args:
            pixel_values: normalized RGB, (B, 3, S, S).
            input_ids: the prompt's token ids, T of them, with `IMAGE_TOKEN_ID` once.
            presents: as in `decode`.

        Returns:
            Last hidden states after the final norm, (B, T - 1 + image tokens, hidden).
        """
        before, after = self.split_prompt(input_ids)
        tokens = self.encode_images(pixel_values)
        batch = len(tokens)
        parts = (
            self.embed_tokens(before).expand(batch, -1, -1),
            tokens,
            self.embed_tokens(after).expand(batch, -1, -1),
        )
        sequence = torch.cat(parts, dim=1)
        image = Segment(len(before), len(before) + tokens.shape[1])
        positions = torch.arange(sequence.shape[1], device=sequence.device)[None, None]
        return self.decode(sequence, image, positions, presents=presents)

    def split_prompt(self, input_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Split a prompt's token ids at the image, as tensors on the model's device.

        Raises:
            ConfigError: the image does not occur exactly once.
        """
        ids = list(input_ids)
        if ids.count(IMAGE_TOKEN_ID) != 1:
            raise ConfigError(
                f"A prompt must hold the image ({IMAGE_TOKEN_ID}) once; this one has it "
                f"{ids.count(IMAGE_TOKEN_ID)} times."
            )
        place = ids.index(IMAGE_TOKEN_ID)
        parts = (torch.tensor(part, dtype=torch.long) for part in (ids[:place], ids[place + 1 :]))
        before, after = (part.to(self.device) for part in parts)
        return before, after
