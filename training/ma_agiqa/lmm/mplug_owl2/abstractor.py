"""The visual abstractor of mPLUG-Owl2: learned queries that read the vision tokens."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.lmm.mplug_owl2.configuration import AbstractorConfig


def line_positions(dim: int, positions: np.ndarray) -> np.ndarray:
    """Sine and cosine embedding of positions (N,): float (N, dim)."""
    omega = 1.0 / 10000 ** (np.arange(dim // 2, dtype=np.float32) / (dim / 2.0))
    angles = np.outer(positions, omega)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def grid_positions(dim: int, grid_size: int) -> np.ndarray:
    """Embedding of a square grid, after a zero row for the class token.

    The column fills the first half of the channels, the row the second.

    Returns:
        float (1 + grid_size ** 2, dim).
    """
    row, column = np.divmod(np.arange(grid_size**2, dtype=np.float32), grid_size)
    halves = [line_positions(dim // 2, column), line_positions(dim // 2, row)]
    return np.concatenate([np.zeros((1, dim)), np.concatenate(halves, axis=1)])


class AbstractorAttention(nn.Module):
    """Cross-attention; fixed positions are added to queries and keys, not to values."""

    q_pos_embed: Tensor
    k_pos_embed: Tensor

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        width, source = config.hidden_size, config.encoder_hidden_size
        self.config = config
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)
        for name, table in self.position_tables().items():
            self.register_buffer(name, table)

    def position_tables(self) -> dict[str, Tensor]:
        """Compute the fixed tables, which follow from the sizes, by buffer name."""
        width = self.config.hidden_size
        queries = np.arange(self.config.num_learnable_queries, dtype=np.float32)
        return {
            "q_pos_embed": torch.tensor(line_positions(width, queries)).float(),
            "k_pos_embed": torch.tensor(grid_positions(width, self.config.grid_size)).float(),
        }

    def forward(self, queries: Tensor, source: Tensor) -> Tensor:
        query_positions = self.q_pos_embed.to(queries.dtype)
        source_positions = torch.cat([query_positions, self.k_pos_embed.to(queries.dtype)])
        context = F.scaled_dot_product_attention(
            self._heads(self.query(queries + query_positions)),
            self._heads(self.key(source + source_positions)),
            self._heads(self.value(source)),
        )
        return context.transpose(1, 2).flatten(2)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.config.num_attention_heads, -1)).transpose(1, 2)


class AbstractorMLP(nn.Module):
    """SwiGLU with a norm inside."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_ln = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.w2(self.ffn_ln(F.silu(self.w1(tokens)) * self.w3(tokens)))


class AbstractorOutput(nn.Module):
    """Projection, residual and MLP after the attention."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.out_proj = nn.Linear(config.encoder_hidden_size, config.encoder_hidden_size)
        self.norm2 = nn.LayerNorm(config.encoder_hidden_size)
        self.mlp = AbstractorMLP(config)

    def forward(self, context: Tensor, residual: Tensor) -> Tensor:
        residual = residual + self.out_proj(context)
        return residual + self.mlp(self.norm2(residual))


class CrossAttention(nn.Module):
    """Queries attend to themselves and the vision tokens; the residual starts after the norm."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.attention = AbstractorAttention(config)
        self.output = AbstractorOutput(config)
        self.norm1 = nn.LayerNorm(config.encoder_hidden_size)
        self.normk = nn.LayerNorm(config.encoder_hidden_size)

    def forward(self, queries: Tensor, vision: Tensor) -> Tensor:
        queries = self.norm1(queries)
        source = torch.cat([queries, self.normk(vision)], dim=1)
        return self.output(self.attention(queries, source), queries)


class AbstractorLayer(nn.Module):
    """One cross-attention layer."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.crossattention = CrossAttention(config)

    def forward(self, queries: Tensor, vision: Tensor) -> Tensor:
        return self.crossattention(queries, vision)


class AbstractorEncoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        layers = (AbstractorLayer(config) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)

    def forward(self, queries: Tensor, vision: Tensor) -> Tensor:
        for layer in self.layers:
            queries = layer(queries, vision)
        return queries


class VisualAbstractor(nn.Module):
    """Vision tokens (B, T, encoder_hidden) to image tokens (B, queries + 1, language_hidden)."""

    def __init__(self, config: AbstractorConfig, language_hidden_size: int) -> None:
        super().__init__()
        self.encoder = AbstractorEncoder(config)
        self.visual_fc = nn.Linear(config.hidden_size, language_hidden_size)
        queries = config.num_learnable_queries
        self.query_embeds = nn.Parameter(torch.empty(1, queries, config.hidden_size))
        self.vit_eos = nn.Parameter(torch.empty(1, 1, language_hidden_size))

    def forward(self, vision: Tensor) -> Tensor:
        batch = len(vision)
        queries = self.encoder(self.query_embeds.expand(batch, -1, -1), vision)
        return torch.cat([self.visual_fc(queries), self.vit_eos.expand(batch, -1, -1)], dim=1)
