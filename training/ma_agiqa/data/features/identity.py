"""What features were made with; they serve only a run that wants the same.

An identity is a plain mapping:

    format            of the store
    embedder          source, dtype, image_size, hidden_size, prompts (token ids), weights_sha256
    preprocessing     both views in words, `preprocessing.PREPROCESSING`
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ma_agiqa.lmm.mplug_owl2.quantization import weight_format
from ma_agiqa.images.views import PREPROCESSING
from ma_agiqa.lmm.embedder import PROMPTS, PromptEmbedder

__all__ = [
    "FORMAT",
    "describe_embedder",
    "differences",
    "identify",
    "store_identity",
    "wanted_identity",
]

FORMAT = 1
"""Version of the store's layout."""

_WEIGHTS = "weights_sha256"
_LONGEST_VALUE = 70  # characters of a value in a message: a hash fits


def identify(source: str, embedder: PromptEmbedder) -> dict[str, Any]:
    """What makes an embedder's outputs its own.

    Args:
        source: where its weights came from, as `lmm.sources.build_embedder` takes it.
        embedder: every parameter of its model, its dtype, its prompts and its view's size count.
    """
    digest = hashlib.sha256()
    for name, value in sorted(embedder.model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    dtype = weight_format(embedder.model)
    sizes = embedder.image_size, embedder.hidden_size
    return describe_embedder(source, dtype, *sizes, digest.hexdigest())


def describe_embedder(
    source: str, dtype: str, image_size: int, hidden_size: int, weights_sha256: str | None
) -> dict[str, Any]:
    """Identity of an embedder with the paper's two prompts.

    Args:
        source: where its weights came from.
        dtype: what its weights are kept in, of `lmm.sources.DTYPES`.
        image_size: side of its view in pixels.
        hidden_size: width of an embedding.
        weights_sha256: as `identify` computes it; None if not known.
    """
    return {
        "source": source,
        "dtype": dtype,
        "image_size": image_size,
        "hidden_size": hidden_size,
        "prompts": {name: list(ids) for name, ids in PROMPTS.items()},
        _WEIGHTS: weights_sha256,
    }


def store_identity(embedder: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of a store that an embedder of this identity fills."""
    return {"format": FORMAT, "embedder": dict(embedder), "preprocessing": dict(PREPROCESSING)}


def wanted_identity(source: str, dtype: str) -> dict[str, Any]:
    """As much of a store's identity as is known before the embedder is loaded.

    Args:
        source: of the embedder's weights, as `lmm.sources.build_embedder` takes it.
        dtype: what its weights are kept in, of `lmm.sources.DTYPES`.
    """
    prompts = {name: list(ids) for name, ids in PROMPTS.items()}
    return store_identity({"source": source, "dtype": dtype, "prompts": prompts})


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Settings that are wanted otherwise, each as "name is A there, but B is wanted".

    Only what `wanted` states is compared; the weights' hash only where both know it.
    """
    there = dict(_flat(found))
    return [
        f"{name} is {_short(there.get(name))} there, but {_short(value)} is wanted"
        for name, value in _flat(wanted)
        if there.get(name) != value
        and not (name.endswith(_WEIGHTS) and None in (there.get(name), value))
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
