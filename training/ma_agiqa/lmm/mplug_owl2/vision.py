"""The vision transformer of mPLUG-Owl2 (CLIP ViT-L/14 at 448 pixels)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.lmm.mplug_owl2.configuration import VisionConfig

_HEADS_AT_ONCE = 2


class VisionEmbeddings(nn.Module):
    """Patches, class token and learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Parameter(torch.empty(1, config.grid_size**2 + 1, width))
        self.pre_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return self.pre_layernorm(tokens + self.position_embedding)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of every token to every token, all (B, heads, T, head_dim).

    In 16 bits on a CPU, plain products of two heads at a time, whose table of weights stays in the
    cache, take half to two thirds of the time of PyTorch's own attention at this number of tokens
    (docs/benchmarks.md).
    """
    if query.device.type != "cpu" or query.element_size() != 2:
        return F.scaled_dot_product_attention(query, key, value)
    query = query * query.shape[-1] ** -0.5
    heads = [part.unbind(0) for part in (query, key, value)]  # of each image
    images = [
        torch.cat(
            [
                torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
                for q, k, v in zip(*(part.split(_HEADS_AT_ONCE) for part in parts), strict=True)
            ]
        )
        for parts in zip(*heads, strict=True)
    ]
    return torch.stack(images)


class VisionAttention(nn.Module):
    """Self-attention whose fused projection is laid out heads first."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        fused = self.query_key_value(tokens).unflatten(2, (self.num_heads, 3, -1))
        query, key, value = fused.permute(3, 0, 2, 1, 4)  # each (B, heads, T, head_dim)
        context = attend(query, key, value)
        return self.dense(context.transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    """Two linear layers with x * sigmoid(1.702 x) between."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.fc1(tokens)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))


class VisionLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.self_attn(self.input_layernorm(tokens))
        return tokens + self.mlp(self.post_attention_layernorm(tokens))


class VisionEncoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class VisionModel(nn.Module):
    """Normalized pixels (B, 3, S, S) to tokens (B, 1 + patches, hidden), class token first."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.post_layernorm(self.encoder(self.embeddings(pixel_values)))
