"""A checkpoint of random weights, for measuring where the published one is not available.

It has the published names and shapes, the language head included, so that both our code and the
authors' code load it. Random weights compute as fast as trained ones, but understand nothing.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config, MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.abstractor import AbstractorAttention
from ma_agiqa.lmm.mplug_owl2.weight_files import write_tensors

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)


def write_random_weights(config: MPlugOwl2Config, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint with weights that follow from their names: 16.4 GB at the paper's size."""
    settings = {
        "model_type": "mplug_owl2",
        "torch_dtype": str(dtype).removeprefix("torch."),
        **{name: getattr(config, name) for name in _SIZES},
        "visual_config": {
            "visual_model": vars(config.vision),
            "visual_abstractor": vars(config.abstractor),
        },
    }
    write_tensors(folder, settings, random_tensors(config, dtype))


def cut_layers(config: MPlugOwl2Config, layers: int) -> MPlugOwl2Config:
    """Keep the widths, but only this many decoder layers; the other parts are cut in proportion."""
    share = layers / config.num_hidden_layers
    parts: dict[str, Any] = {"visual_model": config.vision, "visual_abstractor": config.abstractor}
    visual = {
        name: {**vars(part), "num_hidden_layers": max(1, round(share * part.num_hidden_layers))}
        for name, part in parts.items()
    }
    sizes = {"num_hidden_layers": layers, "visual_config": visual}
    return MPlugOwl2Config(**{**config.to_dict(), **sizes})


def random_tensors(config: MPlugOwl2Config, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Make the weights by their published names, from their names."""
    with torch.device("meta"):
        model = MPlugOwl2Model(config)
    for name, parameter in model.named_parameters():
        yield f"model.{name}", _draw(name, parameter.shape, dtype)
    for name, part in model.named_modules():
        if isinstance(part, AbstractorAttention):
            for table, values in part.position_tables().items():
                yield f"model.{name}.{table}", values.to(dtype)
    head = torch.Size((config.vocab_size, config.hidden_size))
    yield "lm_head.weight", _draw("lm_head.weight", head, dtype)


def _draw(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Uniform weights of unit gain; norms of 1, biases of 0."""
    if len(shape) == 1:
        is_norm = "norm" in name or "ffn_ln" in name
        return torch.full(shape, float(is_norm and name.endswith("weight")), dtype=dtype)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    bound = (3.0 / shape[1:].numel()) ** 0.5
    return torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=generator)
