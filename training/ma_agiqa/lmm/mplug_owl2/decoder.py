"""The language decoder of mPLUG-Owl2: LLaMA-2 with the modality-adaptive module.

Keys, values and both norms have two sets of weights: way 0 for text, way 1 for image tokens. The
image's tokens are contiguous, so a sequence is cut into at most three slices instead of being
gathered token by token.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.lmm.mplug_owl2.configuration import MPlugOwl2Config

KeyValues = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each (B, kv_heads, T, head_dim); the keys are rotated."""


@dataclass(frozen=True)
class Segment:
    """Where the image's tokens are in a sequence: positions start <= t < stop."""

    start: int
    stop: int


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 (in float64 for float64 inputs)."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(hidden.dtype)


class Multiway(nn.Module):
    """Two modules of one shape: the first for text, the second for image tokens."""

    def __init__(self, text: nn.Module, image: nn.Module) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([text, image])

    def forward(self, hidden: Tensor, image: Segment) -> Tensor:
        """Map (B, T, width); slices are made contiguous, as strided bf16 products are slow."""
        text_way, image_way = self.multiway
        slices = (
            (text_way, 0, image.start),
            (image_way, image.start, image.stop),
            (text_way, image.stop, hidden.shape[1]),
        )
        parts = [way(hidden[:, a:b].contiguous()) for way, a, b in slices if b > a]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def rotary_tables(config: MPlugOwl2Config, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary embedding, float32 (..., head_dim), for integer positions."""
    rope, head_dim = cast(dict, config.rope_parameters), cast(int, config.head_dim)
    exponent = torch.arange(0, head_dim, 2, device=positions.device).float()
    angles = positions[..., None].float() / rope["rope_theta"] ** (exponent / head_dim)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = (table.to(heads.dtype) for table in rotary)
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat([-second, first], dim=-1) * sine


def _append(past: Tensor, present: Tensor) -> Tensor:
    """Append (B, heads, T, d) to (P, heads, past, d), where B / P in a row have the same past."""
    present = present.unflatten(0, (len(past), -1))
    shared = past[:, None].expand(-1, present.shape[1], -1, -1, -1)
    return torch.cat([shared, present], dim=3).flatten(0, 1)


class DecoderAttention(nn.Module):
    """Self-attention with shared queries and modality-specific keys and values."""

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__()
        self.head_dim = cast(int, config.head_dim)
        source_heads = cast(int, config.num_key_value_heads)
        self.grouped = source_heads != config.num_attention_heads
        width, bias = config.hidden_size, config.attention_bias
        query_width = config.num_attention_heads * self.head_dim
        source_width = source_heads * self.head_dim
        self.q_proj = nn.Linear(width, query_width, bias=bias)
        self.k_proj, self.v_proj = (
            Multiway(*(nn.Linear(width, source_width, bias=bias) for _ in range(2)))
            for _ in range(2)
        )
        self.o_proj = nn.Linear(query_width, width, bias=bias)

    def forward(
        self,
        hidden: Tensor,
        image: Segment,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        query = _rotate(self._heads(self.q_proj(hidden)), rotary)
        key = _rotate(self._heads(self.k_proj(hidden, image)), rotary)
        value = self._heads(self.v_proj(hidden, image))
        if past is not None:
            key, value = _append(past[0], key), _append(past[1], value)
        context = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=self.grouped
        )
        return self.o_proj(context.transpose(1, 2).flatten(2)), (key, value)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (-1, self.head_dim)).transpose(1, 2)


class DecoderMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class DecoderLayer(nn.Module):
    """A pre-norm decoder layer."""

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__()
        self.self_attn = DecoderAttention(config)
        self.mlp = DecoderMLP(config)
        self.input_layernorm, self.post_attention_layernorm = (
            Multiway(*(RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(2)))
            for _ in range(2)
        )

    def forward(
        self,
        hidden: Tensor,
        image: Segment,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, present = self.self_attn(
            self.input_layernorm(hidden, image), image, rotary, mask, past
        )
        hidden = hidden + attended
        return hidden + self.mlp(self.post_attention_layernorm(hidden, image)), present
