"""Linear layers whose weights take 8 or 4 bits.

int4 and fp8 are for the decoder's layers, which hold nine tenths of mPLUG-Owl2's weights. With
int4 all other linear layers are int8; with fp8 they keep 16 bits. A weight is quantized when it is
loaded; nothing is calibrated. fp8 layers quantize their inputs, too, and so do int8 layers on a CPU
with instructions for products of 8 bits (VNNI); other layers compute in the model's dtype.
"""

import ctypes
import functools
import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 512  # while a weight is quantized: 8 MB of float32 at the paper's width
_VALUES_AT_ONCE = 2**19  # of inputs while they are quantized: 2 MB of float32
_MKLDNN = 3  # number of this layout in C (c10/core/Layout.h)


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


class Int8ProductLinear(Int8Linear):
    """Int8 weights and inputs, multiplied in integers by oneDNN on a CPU.

    Each row of the input (a token) has its own scale, so that no token changes how another is
    rounded. The largest value of a row decides its scale. Decoders have a few channels with values
    far above all others, which would lose most of their bits; such a row gets 8 more: what rounding
    left of it is multiplied as a second row.

    The products have no gradient; where one is asked for, the weight is unpacked.
    """

    outlier = 12.0, 16.0
    """Largest value of a row, over the root of the mean square, from which it has 16 bits: in
    general, and in layers with more inputs than outputs. docs/benchmarks.md has the measurements.
    About 4 in normally distributed rows; the products of a gate, which `down_proj` gets, have
    about 12 without any outlying channel."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        shape = linear.in_features, linear.out_features  # as oneDNN has it, in a layout of its own
        self.register_buffer("weight", torch.empty(shape, dtype=torch.int8, device="meta"))

    @staticmethod
    def is_fast() -> bool:
        """Whether this CPU multiplies 8-bit integers faster than 16-bit numbers."""
        return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()

    @staticmethod
    def pack(codes: Tensor) -> Tensor:
        """Bring codes (out, in) to oneDNN's layout: an opaque tensor (in, out)."""
        return torch.ops.onednn.qlinear_prepack(codes.contiguous(), None)

    def dequantize(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Unpack a block of outputs of the weight, (stop - start, in)."""
        codes = self.weight.to_dense().t()[start:stop]
        return codes.to(dtype) * self.scale[start:stop].to(dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.requires_grad and torch.is_grad_enabled():
            weight = self.dequantize(0, len(self.scale), hidden.dtype)
            return F.linear(hidden, weight, self.bias)
        rows = hidden.flatten(0, -2)
        codes, scale, outliers = self._rounded(rows)
        if len(outliers):
            left = (
                rows[outliers].float() - (codes[outliers].float() - 128) * scale[outliers].float()
            )
            more, finer, _ = self._rounded(left)
            codes, scale = torch.cat([codes, more]), torch.cat([scale, finer])
        product = self._product(codes).mul_(scale)
        if len(outliers):
            product, added = product[: len(rows)], product[len(rows) :]
            product.index_add_(0, outliers, added)
        product = product.to(hidden.dtype).unflatten(0, hidden.shape[:-1])
        return product if self.bias is None else product + self.bias

    def _rounded(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Round rows (N, in): uint8 around 128, bfloat16 scales (N, 1), and which are outliers.

        A row that is not finite gets a scale that is not, and so its products.
        """
        codes = torch.empty(rows.shape, dtype=torch.int8)  # to which PyTorch converts faster
        scales, outliers = [], []
        limit = self.outlier[rows.shape[1] > len(self.scale)] / math.sqrt(rows.shape[1])
        step = max(1, _VALUES_AT_ONCE // rows.shape[1])
        for start in range(0, len(rows), step):
            part = rows[start : start + step].to(torch.float32, copy=True)  # first: half the time
            largest = part.abs().amax(dim=1, keepdim=True)
            scale = (largest / 127).clamp(min=1e-30).bfloat16()  # as of weights: exact in products
            outliers.append(largest > limit * torch.linalg.vector_norm(part, dim=1, keepdim=True))
            codes[start : start + len(part)] = part.div_(scale.float()).round_()
            scales.append(scale)
        outlying = torch.cat(outliers).flatten().nonzero().flatten()
        return codes.view(torch.uint8).bitwise_xor_(128), torch.cat(scales), outlying

    def _product(self, codes: Tensor) -> Tensor:
        """Multiply rounded rows (N, in) by the weight: bfloat16 (N, out), to be scaled by row."""
        scale = self.scale.flatten().float()
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        return torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 128, self.weight, scale, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
        )


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


def packed_layout(packed: Tensor) -> bytes:
    """Describe the layout of a packed weight, which depends on the CPU and on oneDNN's version."""
    return bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(packed).tolist())


def packed_bytes(packed: Tensor) -> Tensor:
    """Copy a packed weight to bytes, uint8 (N,)."""
    content = torch.empty(torch.ops.mkldnn._nbytes(packed), dtype=torch.uint8)
    ctypes.memmove(content.data_ptr(), torch.ops.mkldnn.data_ptr(packed), len(content))
    return content


def packed_in_place(content: Tensor, example: Tensor) -> Tensor:
    """Use the memory of what `packed_bytes` gave, such as a mapped file, as a packed weight.

    PyTorch has this for its compiled models alone: a function in C, and one that takes over the
    pointer that it gives.

    Args:
        content: uint8 (N,); the weight keeps it.
        example: a packed weight of the same shape and layout (`packed_layout`).

    Raises:
        CheckpointError: the content has another size.
    """
    if content.nbytes != torch.ops.mkldnn._nbytes(example):
        raise CheckpointError(
            f"A quantized weight has {content.nbytes} bytes instead of "
            f"{torch.ops.mkldnn._nbytes(example)}. Delete the folder of quantized weights."
        )
    library, layout, made = _torch_library(), packed_layout(example), ctypes.c_void_p()
    numbers = ctypes.c_int64 * example.dim()
    failed = library.aoti_torch_create_tensor_from_blob_v2(
        ctypes.c_void_p(content.data_ptr()),
        ctypes.c_int64(example.dim()),
        numbers(*example.shape),
        numbers(*([0] * example.dim())),  # strides, which a packed weight does not have
        ctypes.c_int64(0),
        ctypes.c_int32(library.aoti_torch_dtype_int8()),
        ctypes.c_int32(library.aoti_torch_device_type_cpu()),
        ctypes.c_int32(0),
        ctypes.byref(made),
        ctypes.c_int32(_MKLDNN),
        layout,
        ctypes.c_int64(len(layout)),
    )
    if failed:
        raise CheckpointError("PyTorch cannot use a quantized weight where it is in memory.")
    capsule = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
    )(("PyCapsule_New", ctypes.pythonapi))
    packed: Any = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(
        [capsule(made, None, None)]
    )[0]
    packed.content = content
    return packed


@functools.cache
def _torch_library() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


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


def replace_linears(model: nn.Module, kind: str, device: str | torch.device) -> dict[str, str]:
    """Replace linear layers by quantized ones without values.

    Args:
        model: mPLUG-Owl2; it is changed.
        kind: a format of `QUANTIZED`.
        device: device that will compute.

    Returns:
        The format of each layer by its name.
    """
    kinds = {
        name: kind if name.startswith("layers.") else "int8"
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and (name.startswith("layers.") or kind != "fp8")
    }
    layers = dict(QUANTIZED)
    if torch.device(device).type == "cpu":
        fast = Int8ProductLinear.is_fast()
        layers["int8"] = Int8ProductLinear if fast else Int8Linear
        logger.info(
            "int8 layers multiply 8-bit integers."
            if fast
            else "int8 layers save memory only: this CPU has no VNNI instructions, so weights are "
            "unpacked to 16 bits."
        )
    for name, chosen in kinds.items():
        linear: Any = model.get_submodule(name)
        model.set_submodule(name, layers[chosen](linear))
    return kinds
