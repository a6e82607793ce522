"""MANIQA for inference only: the function of `maniqa` in fewer operations and any float dtype.

A copy cannot be trained: its weights are merged, reordered and frozen. `accelerate` makes one.

    exact (`maniqa`)                       here
    q k^T of two projections               x A x^T with A = W_q^T W_k, one projection less
    transposed attention, 3 copies         products that come out in the layout that is needed
    roll, cut into windows, and back       tokens stay in window order inside a Swin layer
    softmax(q k^T) v in three steps        one fused kernel
    large linear layers, CPU, float32      1x1 convolutions, which PyTorch gives to oneDNN, not MKL
    convolutions that pad one side more    kernels with a row of zeros, which pad both sides alike

Softmax ignores what is constant along the keys, so of the two projections' biases only
W_k^T b_q is left: q k^T = (x A + W_k^T b_q) x^T + terms that are constant in each row.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from ma_agiqa.networks.convolutional import CNNFeatures
from ma_agiqa.networks.maniqa import (
    MANIQA,
    FeatureStage,
    SwinLayer,
    TransposedAttention,
    ViTFeatures,
    fuse_attention,
    pool_tokens,
)
from ma_agiqa.networks.scorer import MAAGIQA

_LARGE_WEIGHTS = 2**18  # below, a convolution's overhead is more than it saves


class _PointwiseLinear(nn.Module):
    """`nn.Linear` as a 1x1 convolution: 10 to 25 % faster in float32 on AMD's Zen 4."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        weight = source.weight.detach()[:, :, None, None]
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = source.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        rows = inputs.reshape(1, 1, -1, inputs.shape[-1]).permute(0, 3, 1, 2)  # channels last
        outputs = F.conv2d(rows, self.weight, self.bias).permute(0, 2, 3, 1)
        return outputs.reshape(inputs.shape[:-1] + outputs.shape[-1:])


class _ViT(nn.Module):
    """`ViTFeatures`, whose patches and positions stay in float32."""

    def __init__(self, source: ViTFeatures, dtype: torch.dtype, fused: bool) -> None:
        super().__init__()
        self.vit = copy.deepcopy(source.vit)
        fuse_attention(self.vit, fused)
        self.vit.blocks.to(dtype)
        self.blocks = source.blocks
        self.num_prefix_tokens = source.num_prefix_tokens

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float32 (B, 3, side, side) to (B, channels, N), contiguous."""
        tokens = self.vit.patch_embed(pixels)
        tokens = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(tokens)))
        tokens = tokens.to(self.vit.blocks[0].norm1.weight.dtype)  # type: ignore[union-attr]
        features: list[Tensor] = []
        for index, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            if index in self.blocks:
                features.append(tokens[:, self.num_prefix_tokens :].transpose(1, 2))
        return torch.cat(features, dim=1)


class _CNN(nn.Module):
    """`CNNFeatures`, which stays in float32."""

    def __init__(self, source: CNNFeatures, dtype: torch.dtype) -> None:
        super().__init__()
        self.features = copy.deepcopy(source)
        _pad_alike(self.features)
        self.features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float32 (B, 3, side, side) to (B, channels, N), contiguous."""
        return self.features(pixels).to(self.dtype).transpose(1, 2).contiguous()


def _pad_alike(features: CNNFeatures) -> None:
    """Replace convolutions that pad by a copy, which takes a tenth of the scorer's time."""
    sides: dict[nn.Module, int] = {}

    def take_side(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sides[conv] = inputs[0].shape[-1]

    same = [
        (parent, name, conv)
        for parent in features.modules()
        for name, conv in parent.named_children()
        if isinstance(conv, Conv2dSame) and conv.dilation == (1, 1)
    ]
    hooks = [conv.register_forward_pre_hook(take_side) for _, _, conv in same]
    with torch.no_grad():
        features(features.mean.new_zeros(1, 3, features.image_size, features.image_size))
    for hook in hooks:
        hook.remove()
    for parent, name, conv in same:
        kernel, stride, side = conv.kernel_size[0], conv.stride[0], sides[conv]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        padding, zeros = total - total // 2, total % 2  # TensorFlow pads the end more
        alike = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            kernel + zeros,
            stride,
            padding,
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        alike.weight = nn.Parameter(F.pad(conv.weight.detach(), (zeros, 0, zeros, 0)))
        alike.bias = conv.bias
        setattr(parent, name, alike)


class _TransposedAttention(nn.Module):
    """`TransposedAttention` with the projections of query and key merged into one."""

    def __init__(self, source: TransposedAttention, dtype: torch.dtype) -> None:
        super().__init__()
        query, key, value = source.query, source.key, source.value
        into_keys = key.weight.double().T * source.scale  # W_k^T / sqrt(N)
        weight = torch.cat([into_keys @ query.weight.double(), value.weight.double()])
        bias = torch.cat([into_keys @ query.bias.double(), value.bias.double()])
        self.project = nn.Linear(weight.shape[1], weight.shape[0])
        self.project.weight, self.project.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.project.to(dtype)

    def forward(self, channels: Tensor) -> Tensor:
        """Map (B, channels, patches), contiguous, to the same shape."""
        query, value = self.project(channels).chunk(2, dim=2)
        mixed = (query @ channels.transpose(1, 2)).softmax(dim=2) @ value
        mixed = mixed.transpose(1, 2).reshape(channels.shape)  # (B, N, C) read as (B, C, N)
        return mixed + channels


class _WindowBlock(nn.Module):
    """A Swin block on tokens that are already in the order of its windows."""

    bias: Tensor

    def __init__(self, source: SwinTransformerBlock, dtype: torch.dtype) -> None:
        super().__init__()
        attention: Any = source.attn
        self.heads: int = attention.num_heads
        self.area: int = attention.window_area
        self.norm1, self.norm2 = copy.deepcopy(source.norm1), copy.deepcopy(source.norm2)
        self.qkv, self.proj = copy.deepcopy(attention.qkv), copy.deepcopy(attention.proj)
        self.mlp = copy.deepcopy(source.mlp)
        bias = attention._get_rel_pos_bias().detach()  # (1, heads, area, area)
        mask: Any = source.attn_mask
        if mask is not None:
            bias = bias + mask.unsqueeze(1)  # (windows, heads, area, area)
        self.register_buffer("bias", bias.clone())
        self.to(dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, dim) to the same shape."""
        tokens = tokens + self.proj(self._attend(self.qkv(self.norm1(tokens))))
        return tokens + self.mlp(self.norm2(tokens))

    def _attend(self, qkv: Tensor) -> Tensor:
        batch, length, width = qkv.shape
        windows = length // self.area
        # (3, B * windows, heads, area, head_dim)
        parts = qkv.view(batch * windows, self.area, 3, self.heads, width // (3 * self.heads))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias.expand(windows, -1, -1, -1).repeat(batch, 1, 1, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return mixed.transpose(1, 2).reshape(batch, length, width // 3)


class _WindowLayer(nn.Module):
    """`SwinLayer` with one reordering of the tokens between blocks instead of two in each."""

    steps: Tensor

    def __init__(self, source: SwinLayer, grid: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.grid = grid
        blocks: Any = source.blocks
        self.blocks = nn.ModuleList(_WindowBlock(block, dtype) for block in blocks)
        orders = [_window_order(block, grid) for block in blocks]
        raster = torch.arange(grid * grid)
        steps, before = [], raster
        for order in [*orders, raster]:
            steps.append(torch.argsort(before)[order])  # where the next order finds its tokens
            before = order
        device = next(source.parameters()).device
        self.register_buffer("steps", torch.stack(steps).to(device))
        self.conv = copy.deepcopy(source.conv)
        self.conv.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, patches: Tensor) -> Tensor:
        """Map (B, N, dim) to the same shape, both in raster order."""
        for index, block in enumerate(self.blocks):
            patches = block(patches.index_select(1, self.steps[index]))
        patches = patches.index_select(1, self.steps[-1])
        image = patches.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        return F.relu(self.conv(image)).permute(0, 2, 3, 1).flatten(1, 2)


class _PaddedLayer(nn.Module):
    """`SwinLayer` as it is, for grids that the windows do not divide."""

    def __init__(self, source: SwinLayer, grid: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.grid = grid
        self.layer = copy.deepcopy(source).to(dtype)
        fuse_attention(self.layer, True)

    def forward(self, patches: Tensor) -> Tensor:
        """Map (B, N, dim) to the same shape, both in raster order."""
        return self.layer(patches.unflatten(1, (self.grid, self.grid))).flatten(1, 2)


class _Stage(nn.Module):
    """`FeatureStage`: (B, in_dim, N), contiguous, to (B, N, out_dim)."""

    def __init__(self, source: FeatureStage, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = source.scale
        attention: Any = source.attention
        self.attention = nn.Sequential(*(_TransposedAttention(a, dtype) for a in attention))
        out_dim, in_dim = source.reduce.weight.shape[:2]
        self.reduce = nn.Linear(in_dim, out_dim)
        self.reduce.weight = nn.Parameter(source.reduce.weight.detach().flatten(1).clone())
        self.reduce.bias = copy.deepcopy(source.reduce.bias)  # type: ignore[assignment]
        self.reduce.to(dtype)
        layers: list[nn.Module] = []
        swin: Any = source.swin
        for layer in swin:
            divides = all(source.grid % side == 0 for b in layer.blocks for side in b.window_size)
            kind = _WindowLayer if divides else _PaddedLayer
            layers.append(kind(layer, source.grid, dtype))
        self.swin = nn.ModuleList(layers)

    def forward(self, channels: Tensor) -> Tensor:
        """Map (B, in_dim, N), contiguous, to (B, N, out_dim)."""
        patches = self.reduce(self.attention(channels).transpose(1, 2))
        for layer in self.swin:
            patches = torch.add(patches, layer(patches), alpha=self.scale)
        return patches


class FastMANIQA(nn.Module):
    """`maniqa.MANIQA` for inference only; TorchScript-able.

    Its transformer blocks and stages compute in `dtype`; pixels, positions and the two heads
    stay in float32.

    Args:
        source: the exact network, whose weights are copied.
        dtype: float32, bfloat16 or float16.
        gpu: whether it is arranged for a GPU; it runs elsewhere, too, but slower.
    """

    def __init__(self, source: MANIQA, dtype: torch.dtype, gpu: bool) -> None:
        super().__init__()
        fused = gpu or dtype == torch.float32  # on a CPU bfloat16 is faster without
        with torch.no_grad():
            self.backbone: nn.Module
            if isinstance(source.backbone, CNNFeatures):
                self.backbone = _CNN(source.backbone, dtype)
            else:
                self.backbone = _ViT(source.backbone, dtype, fused)
            self.stage1 = _Stage(source.stage1, dtype)
            self.stage2 = _Stage(source.stage2, dtype)
            if dtype == torch.float32 and not gpu:
                for part in (self.backbone, self.stage1, self.stage2):
                    _replace_large_linears(part)
        self.score_head = copy.deepcopy(source.score_head)
        self.weight_head = copy.deepcopy(source.weight_head)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score patches of float32 (B, 3, H, W), normalized; as `MANIQA.forward`."""
        tokens = self.backbone(pixels)
        patches = self.stage1(tokens)
        patches = self.stage2(patches.transpose(1, 2).contiguous()).to(pixels.dtype)
        score, weight = self.score_head(patches).squeeze(2), self.weight_head(patches).squeeze(2)
        return score, weight, pool_tokens(tokens, 2)


def _replace_large_linears(module: nn.Module) -> None:
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Linear) and part.weight.numel() >= _LARGE_WEIGHTS:
            module.set_submodule(name, _PointwiseLinear(part))


def _window_order(block: SwinTransformerBlock, grid: int) -> Tensor:
    """List the raster positions in the order in which the block's windows hold them."""
    (height, width), (down, right) = block.window_size, block.shift_size
    raster = torch.arange(grid * grid).view(grid, grid).roll((-down, -right), (0, 1))
    windows = raster.view(grid // height, height, grid // width, width)
    return windows.transpose(1, 2).flatten()


def accelerate(
    scorer: MAAGIQA, dtype: torch.dtype = torch.float32, gpu: bool | None = None
) -> MAAGIQA:
    """Copy a scorer for inference only: the same function in fewer operations.

    The order of the arithmetic differs, and with it the rounding: weights that amplify rounding,
    such as the reference weights, give other scores. Compare the two before you rely on the copy.

    Args:
        scorer: the exact network; it stays as it is.
        dtype: float type of MANIQA's blocks, float32, bfloat16 or float16; the inputs, the fusion
            and the outputs stay float32.
        gpu: whether the copy is arranged for a GPU; it runs elsewhere too, but slower. The default
            is where the scorer is now.

    Returns:
        A model in evaluation mode that shares its fusion with `scorer`.
    """
    model = copy.copy(scorer)
    model._modules = dict(scorer._modules)
    if scorer.maniqa is not None:
        here = next(scorer.parameters()).device.type == "cuda"
        fast = FastMANIQA(scorer.maniqa, dtype, here if gpu is None else gpu)
        model.maniqa = fast  # type: ignore[assignment]
    return model.eval()
