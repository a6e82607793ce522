"""Where an embedder comes from: the published mPLUG-Owl2, or a small one with random weights.

The demo's weights are never stored: they follow from a seed and the parameters' names, so that
every machine and every version of torch makes the same ones.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ma_agiqa.errors import CheckpointError, MAAGIQAError
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config, MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.loading import DTYPES as DTYPES
from ma_agiqa.lmm.mplug_owl2.loading import (
    FLOATS,
    compute_dtype,
    load_mplug_owl2,
    quantize_model,
)

DEMO_EMBEDDER = "demo"
"""Source of the demo's embedder: seeded random weights, which understand nothing."""

PAPER_EMBEDDER = "MAGAer13/mplug-owl2-llama2-7b"
"""Source of the paper's embedder on the Hugging Face hub (16.4 GB)."""

DTYPE_ALIASES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Short names of dtypes on the command line."""

_DEMO_SEED = 20
_DEMO_SIZES: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "visual_config": {
        "visual_model": {
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 112,
            "patch_size": 14,
        },
        "visual_abstractor": {
            "hidden_size": 96,
            "encoder_hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_learnable_queries": 16,
            "grid_size": 8,
        },
    },
}


def demo_recipe() -> dict[str, Any]:
    """What decides every weight of the demo's model."""
    return {"seed": _DEMO_SEED, "generator": "crc32 of the name, normal", **_DEMO_SIZES}


def demo_mplug_owl2() -> MPlugOwl2Model:
    """Make the demo's mPLUG-Owl2: the paper's classes at a small size, random weights."""
    model = MPlugOwl2Model(embedder_config(DEMO_EMBEDDER))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = _seeded(name, tuple(parameter.shape), "norm" in name or "ffn_ln" in name)
            parameter.copy_(torch.from_numpy(values))
    return model.eval()


def _seeded(name: str, shape: tuple[int, ...], is_norm: bool) -> np.ndarray:
    """Draw a parameter: unit-gain normal weights, norms of 1, biases of 0."""
    if len(shape) == 1:
        return np.full(shape, float(is_norm and name.endswith("weight")), np.float32)
    rng = np.random.default_rng([_DEMO_SEED, zlib.crc32(name.encode())])
    fan_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(fan_in))


def build_embedder(
    source: str = DEMO_EMBEDDER, device: str | torch.device = "cpu", dtype: str = "float32"
) -> PromptEmbedder:
    """Load an embedder with the paper's two prompts.

    Args:
        source: `DEMO_EMBEDDER`, a hub id such as `PAPER_EMBEDDER`, or a local folder of it.
        device: device of the model.
        dtype: format of the weights, of `DTYPES`. float32, float16 and bfloat16 are the dtype of
            the arithmetic, too; with int8 and int4 that is 16 bits wide, except that int8 layers
            multiply 8-bit integers on a CPU that is fast at it.

    Raises:
        ConfigError: an unknown dtype, or one that the device or the model's sizes do not allow.
        CheckpointError: the weights cannot be read or do not fit.
    """
    if source == DEMO_EMBEDDER:
        model = demo_mplug_owl2().to(device, compute_dtype(dtype, device))  # type: ignore[arg-type]
        return PromptEmbedder(model if dtype in FLOATS else quantize_model(model, dtype))
    with _explained(source):
        return PromptEmbedder(load_mplug_owl2(source, dtype, device))


def embedder_config(source: str = DEMO_EMBEDDER) -> MPlugOwl2Config:
    """Read an embedder's sizes without its weights.

    Raises:
        CheckpointError: config.json cannot be downloaded or read.
    """
    if source == DEMO_EMBEDDER:
        return MPlugOwl2Config(**_DEMO_SIZES)
    with _explained(source):
        return MPlugOwl2Config.from_pretrained(source)


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Explain a failed loading: the hub, the disk and the parsers raise errors of all kinds."""
    try:
        yield
    except MAAGIQAError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"mPLUG-Owl2 could not be loaded from {source!r}: {error} "
            "Give a folder with config.json and its weight files, or the hub id "
            f"{PAPER_EMBEDDER!r} on a machine with a network."
        ) from error
