"""Linear layers whose weights take 8 or 4 bits.

int4 and fp8 are for the decoder's layers, which hold nine tenths of mPLUG-Owl2's weights. With
int4 all other linear layers are int8; with fp8 they keep 16 bits. A weight is quantized when it is
loaded; nothing is calibrated. Activations stay in the model's dtype, except for fp8.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.errors import ConfigError

_ROWS_AT_ONCE = 512  # while a weight is quantized: 8 MB of float32 at the paper's width


class _WeightOnlyLinear(nn.Module):
    """A layer whose weight is unpacked to the input's dtype for every product.

    On a CPU that happens in blocks of outputs, which stay in the cache: newly allocated memory for
    the whole weight at every call would cost as much time as the product. Scales are bfloat16
    numbers from the start, so that no dtype rounds them.
    """

    block_bytes = 8 * 2**20
    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def dequantize(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Unpack a block of outputs of the weight, (stop - start, in)."""
        raise NotImplementedError

    def forward(self, hidden: Tensor) -> Tensor:
        rows, step = len(self.weight), len(self.weight)
        if hidden.device.type == "cpu":
            step = max(1, self.block_bytes // (hidden.shape[-1] * hidden.element_size()))
        products = [
            F.linear(hidden, self.dequantize(start, start + step, hidden.dtype))
            for start in range(0, rows, step)
        ]
        product = torch.cat(products, dim=-1) if len(products) > 1 else products[0]
        return product if self.bias is None else product + self.bias


class Int8Linear(_WeightOnlyLinear):
    """Weights in 8 bits with a scale for each output."""

    kind = "int8"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        shape = linear.out_features, linear.in_features
        self.register_buffer("weight", torch.empty(shape, dtype=torch.int8, device="meta"))
        scale = torch.empty(shape[0], 1, dtype=torch.bfloat16, device="meta")
        self.register_buffer("scale", scale)
        self.register_parameter("bias", linear.bias)

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        """Quantize a weight (out, in) to this layer's buffers."""
        largest = weight.abs().amax(dim=1, keepdim=True).float()
        scale = (largest / 127).clamp(min=1e-12).bfloat16()
        codes = (weight / scale.float()).round_().clamp_(-127, 127)
        return {"weight": codes.to(torch.int8), "scale": scale}

    def dequantize(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Unpack a block of outputs of the weight, (stop - start, in)."""
        return self.weight[start:stop].to(dtype).mul_(self.scale[start:stop].to(dtype))


class Int4Linear(_WeightOnlyLinear):
    """Weights in 4 bits with a scale and an offset for every 128 inputs of an output (for half of
    the inputs where they are fewer than 256).

    A byte holds a weight of the first half of the inputs (low bits) and one of the second half.
    """

    kind = "int4"
    offset: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows, width = linear.out_features, linear.in_features
        codes, groups = (rows, width // 2), (rows, width // self.group(width), 1)
        self.register_buffer("weight", torch.empty(codes, dtype=torch.uint8, device="meta"))
        for name in ("scale", "offset"):
            self.register_buffer(name, torch.empty(groups, dtype=torch.bfloat16, device="meta"))
        self.register_parameter("bias", linear.bias)

    @staticmethod
    def group(width: int) -> int:
        """How many of `width` inputs share a scale.

        Raises:
            ConfigError: the width cannot be divided.
        """
        group = min(128, width // 2)
        if width % (2 * group):
            raise ConfigError(
                f"int4 needs layers whose width is even, and a multiple of 256 from there on; one "
                f"has {width}. Choose int8 or a 16-bit dtype."
            )
        return group

    @classmethod
    def quantize(cls, weight: Tensor) -> dict[str, Tensor]:
        """Quantize a weight (out, in) to this layer's buffers."""
        grouped = weight.float().unflatten(1, (-1, cls.group(weight.shape[1])))
        low, high = grouped.aminmax(dim=2, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-12).bfloat16()
        offset = low.bfloat16()
        codes = (
            ((grouped - offset.float()) / scale.float())
            .round_()
            .clamp_(0, 15)
            .to(torch.uint8)
            .flatten(1)
        )
        first, second = codes.chunk(2, dim=1)
        return {"weight": first | (second << 4), "scale": scale, "offset": offset}

    def dequantize(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Unpack a block of outputs of the weight, (stop - start, in)."""
        codes = self.weight[start:stop]
        rows, half = codes.shape
        weight = torch.empty(rows, 2 * half, dtype=dtype, device=codes.device)
        weight[:, :half] = codes & 15
        weight[:, half:] = codes >> 4
        groups = weight.unflatten(1, (-1, self.group(2 * half)))
        groups.mul_(self.scale[start:stop].to(dtype)).add_(self.offset[start:stop].to(dtype))
        return weight


class Float8Linear(nn.Module):
    """Weights and activations in float8 (e4m3), for the matrix units of Hopper GPUs and later.

    Each output of the weight and each row of the activations has its own scale.
    """

    kind = "fp8"
    largest = torch.finfo(torch.float8_e4m3fn).max
    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        shape = linear.out_features, linear.in_features
        self.register_buffer("weight", torch.empty(shape, dtype=torch.float8_e4m3fn, device="meta"))
        self.register_buffer("scale", torch.empty(shape[0], 1, device="meta"))
        self.register_parameter("bias", linear.bias)

    @classmethod
    def quantize(cls, weight: Tensor) -> dict[str, Tensor]:
        """Quantize rows (N, in) to this layer's buffers; scales are float32."""
        scale = weight.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / cls.largest
        return {"weight": (weight.float() / scale).to(torch.float8_e4m3fn), "scale": scale}

    def forward(self, hidden: Tensor) -> Tensor:
        rows = self.quantize(hidden.flatten(0, -2))
        product = torch._scaled_mm(
            rows["weight"],
            self.weight.t(),
            scale_a=rows["scale"],
            scale_b=self.scale.t(),
            out_dtype=torch.bfloat16,  # the only one for scales by row
            use_fast_accum=True,
        )
        product = product.to(hidden.dtype).unflatten(0, hidden.shape[:-1])
        return product if self.bias is None else product + self.bias


QUANTIZED: dict[str, type[Int8Linear | Int4Linear | Float8Linear]] = {
    layer.kind: layer for layer in (Int8Linear, Int4Linear, Float8Linear)
}
"""The quantized layers by the name of their format."""


def quantize_weight(kind: str, weight: Tensor) -> dict[str, Tensor]:
    """Quantize a weight (out, in), in blocks of outputs that stay in a CPU's cache."""
    made: dict[str, Tensor] = {}
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rows = weight[start : start + _ROWS_AT_ONCE]
        for name, part in QUANTIZED[kind].quantize(rows).items():
            if name not in made:
                made[name] = part.new_empty((len(weight), *part.shape[1:]))
            made[name][start : start + len(rows)] = part
    return made


def replace_linears(model: nn.Module, kind: str) -> dict[str, str]:
    """Replace linear layers by quantized ones without values.

    Args:
        model: mPLUG-Owl2; it is changed.
        kind: a format of `QUANTIZED`.

    Returns:
        The format of each layer by its name.
    """
    kinds = {
        name: kind if name.startswith("layers.") else "int8"
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and (name.startswith("layers.") or kind != "fp8")
    }
    for name, chosen in kinds.items():
        linear: Any = model.get_submodule(name)
        model.set_submodule(name, QUANTIZED[chosen](linear))
    return kinds


def weight_format(model: nn.Module) -> str:
    """Name what a model's weights are kept in: a format of `QUANTIZED`, or its dtype.

    With int4 some layers are int8.
    """
    layers = Int8Linear | Int4Linear | Float8Linear
    kinds = {part.kind for part in model.modules() if isinstance(part, layers)}
    dtype = next(parameter.dtype for parameter in model.parameters())
    return min(kinds) if kinds else str(dtype).removeprefix("torch.")
