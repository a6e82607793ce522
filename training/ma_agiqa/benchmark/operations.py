"""How many operations the embeddings of an image take, counted from the model's sizes.

Only matrix products and convolutions count, two operations for each multiplication with its
addition. With T tokens, width W, inner width F, and S keys that T queries see:

    linear layer         2 * T * in * out
    attention            4 * T * S * W            (scores, and the sum of values)
    vision layer         2 * T * (4 W^2 + 2 W F) + attention
    abstractor layer     2 * Q * (2 W^2 + 3 W F) + 2 * (Q + T) * 2 W^2 + attention, Q queries
    decoder layer        2 * T * (2 W^2 + 2 W W_kv + 3 W F) + attention

The cached path runs the vision once, and for each prompt the image's tokens and the prompt's end.
The official path runs everything twice for each prompt, from the prompt's beginning to the head.
"""

from collections.abc import Iterable, Mapping, Sequence

from ma_agiqa.benchmark.machine import GemmShape
from ma_agiqa.lmm.mplug_owl2 import IMAGE_TOKEN_ID, MPlugOwl2Config

__all__ = ["cached_flop", "gemm_shapes", "official_flop"]

Prompts = Mapping[str, Sequence[int]]


def cached_flop(config: MPlugOwl2Config, prompts: Prompts) -> float:
    """Operations per image of `PromptEmbedder`, the padding of shorter prompts included."""
    prefix, new = _lengths(config, prompts)
    return _vision_flop(config) + len(prompts) * _decoder_flop(config, new, prefix + new)


def official_flop(config: MPlugOwl2Config, prompts: Prompts) -> float:
    """Operations per image of the authors' feature extraction."""
    total = 0.0
    for ids in prompts.values():
        tokens = len(ids) - 1 + config.num_image_tokens
        head = 2.0 * tokens * config.hidden_size * config.vocab_size
        total += 2 * (_vision_flop(config) + _decoder_flop(config, tokens, tokens) + head)
    return total


def gemm_shapes(config: MPlugOwl2Config, prompts: Prompts, batch: int) -> list[GemmShape]:
    """The matrix products that make nearly all of the cached path's operations."""
    vision, width, layers = config.vision, config.hidden_size, config.num_hidden_layers
    tokens, inner = batch * _vision_tokens(config), vision.hidden_size
    blocks = vision.num_hidden_layers
    _, new = _lengths(config, prompts)
    rows = len(prompts) * batch * new
    image_rows = len(prompts) * batch * config.num_image_tokens
    keys = config.num_key_value_heads * config.head_dim
    return [
        GemmShape(tokens, inner, 3 * inner, blocks),
        GemmShape(tokens, inner, inner, blocks),
        GemmShape(tokens, inner, vision.intermediate_size, blocks),
        GemmShape(tokens, vision.intermediate_size, inner, blocks),
        GemmShape(rows, width, width, 2 * layers),
        GemmShape(image_rows, width, keys, 2 * layers),
        GemmShape(rows, width, config.intermediate_size, 2 * layers),
        GemmShape(rows, config.intermediate_size, width, layers),
    ]


def _lengths(config: MPlugOwl2Config, prompts: Prompts) -> tuple[int, int]:
    """The longest beginning of a prompt, and the positions that run for every image."""
    places = [list(ids).index(IMAGE_TOKEN_ID) for ids in prompts.values()]
    ends: Iterable[int] = (
        len(ids) - place - 1 for ids, place in zip(prompts.values(), places, strict=True)
    )
    return max(places), config.num_image_tokens + max(ends)


def _vision_tokens(config: MPlugOwl2Config) -> int:
    return config.vision.grid_size**2 + 1


def _vision_flop(config: MPlugOwl2Config) -> float:
    vision, abstractor = config.vision, config.abstractor
    width, tokens = vision.hidden_size, _vision_tokens(config)
    patches = 2.0 * (tokens - 1) * 3 * vision.patch_size**2 * width
    layer = 2.0 * tokens * width * (4 * width + 2 * vision.intermediate_size)
    layer += 4.0 * tokens**2 * width
    queries, inner = abstractor.num_learnable_queries, abstractor.hidden_size
    keys = queries + tokens
    reader = 2.0 * queries * inner * (2 * inner + 3 * abstractor.intermediate_size)
    reader += 2.0 * keys * 2 * inner * width + 4.0 * queries * keys * inner
    return (
        patches
        + vision.num_hidden_layers * layer
        + abstractor.num_hidden_layers * reader
        + 2.0 * queries * inner * config.hidden_size
    )


def _decoder_flop(config: MPlugOwl2Config, tokens: int, keys: int) -> float:
    width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
    weights = width * (2 * width + 2 * kv_width + 3 * config.intermediate_size)
    return config.num_hidden_layers * (2.0 * tokens * weights + 4.0 * tokens * keys * width)
