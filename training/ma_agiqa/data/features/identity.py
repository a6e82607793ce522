"""What features were made with; they serve only a run that wants the same.

An identity is a plain mapping:

    format            version of the store's layout
    embedder          source, dtype, image_size, hidden_size, prompts (token ids), weights_sha256
    preprocessing     both views in words, `images.views.PREPROCESSING`
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ma_agiqa.images.views import PREPROCESSING
from ma_agiqa.lmm.embedder import PROMPTS

FORMAT = 2
"""Version of the store's layout."""

_WEIGHTS = "weights_sha256"
_LONGEST_VALUE = 70  # characters of a value in a message: a hash fits


def describe_embedder(
    source: str, dtype: str, weights_sha256: str | None, **sizes: int
) -> dict[str, Any]:
    """Identity of an embedder with the paper's two prompts.

    Args:
        source: where its weights come from, as `lmm.sources.build_embedder` takes it.
        dtype: format of its weights, one of `lmm.sources.DTYPES`.
        weights_sha256: as `lmm.weights_hash` computes it; None if not known.
        sizes: image_size (side of its view in pixels) and hidden_size (width of an embedding),
            where they are known.
    """
    return {
        "source": source,
        "dtype": dtype,
        **sizes,
        "prompts": {name: list(ids) for name, ids in PROMPTS.items()},
        _WEIGHTS: weights_sha256,
    }


def store_identity(embedder: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of a store that an embedder of this identity fills."""
    return {"format": FORMAT, "embedder": dict(embedder), "preprocessing": dict(PREPROCESSING)}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Describe the settings that differ, each as "name is A there, but B is wanted".

    Only what `wanted` states is compared; the hash of the weights only where both know it.
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
