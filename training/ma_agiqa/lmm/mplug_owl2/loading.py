"""Loading mPLUG-Owl2 straight to its dtype and device, with the weights in memory once.

On a CPU, weights that lie on the disk in the wanted dtype are not read at all: the model uses the
mapped file, and processes that serve the same file share its memory. The file must then stay as it
is while the model lives. Other weights are converted or quantized one tensor at a time, except
that the table of token embeddings stays mapped where it has the dtype of the arithmetic.
"""

import ctypes
import re

import torch
from torch import Tensor

from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.mplug_owl2.abstractor import AbstractorAttention
from ma_agiqa.lmm.mplug_owl2.configuration import MPlugOwl2Config
from ma_agiqa.lmm.mplug_owl2.model import UNUSED, MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.quantization import QUANTIZED, quantize_weight, replace_linears
from ma_agiqa.lmm.mplug_owl2.weight_files import read_tensors
from ma_agiqa.networks.exact_loading import check_names

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Formats that are a dtype of torch."""

DTYPES = (*FLOATS, *QUANTIZED)
"""Formats that weights can be kept in."""

_LOOKED_UP = {"embed_tokens.weight"}  # a table: mapped, only the rows of the prompts are in memory


def compute_dtype(dtype: str, device: str | torch.device) -> torch.dtype:
    """The dtype of the arithmetic, and of all weights that are not quantized.

    Raises:
        ConfigError: an unknown format, or one that the device cannot compute in.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}: choose from {sorted(DTYPES)}.")
    if dtype in FLOATS:
        return FLOATS[dtype]
    on_gpu = torch.device(device).type == "cuda"
    if dtype == "fp8":
        if not on_gpu or torch.cuda.get_device_capability(device) < (8, 9):
            raise ConfigError(
                "dtype 'fp8' needs a GPU of NVIDIA's Ada or Hopper generation or later. Choose "
                "int8, or a 16-bit dtype."
            )
        return torch.bfloat16
    return torch.float16 if on_gpu else torch.bfloat16


def load_mplug_owl2(source: str, dtype: str, device: str | torch.device = "cpu") -> MPlugOwl2Model:
    """Load the hub's checkpoint or a local folder of it.

    Args:
        source: hub id or folder, with .bin or safetensors files.
        dtype: what the weights are kept in, of `DTYPES`. With int8, int4 and fp8 weights are
            quantized while they are read.
        device: where the model runs.

    Raises:
        ConfigError: see `compute_dtype`.
        CheckpointError: tensors are missing, left over or of another shape; it lists them.
    """
    floats = compute_dtype(dtype, device)
    with torch.device("meta"):
        model = MPlugOwl2Model(MPlugOwl2Config.from_pretrained(source))
        model.to(floats)  # type: ignore[arg-type]
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    layers = {} if dtype in FLOATS else replace_linears(model, dtype)
    on_cpu = torch.device(device).type == "cpu"
    state: dict[str, Tensor] = {}
    found: dict[str, torch.Size] = {}
    for published, tensor in read_tensors(source, stay_mapped=on_cpu and dtype in FLOATS):
        name = published.removeprefix("model.")
        if any(re.fullmatch(pattern, published) for pattern in UNUSED):
            continue
        found[name] = tensor.shape
        if shapes.get(name) == tensor.shape:
            state |= _prepared(name, tensor, layers, floats, device)
    tables = {name: t for name, t in _tables(model).items() if name not in found}
    state |= {name: table.to(device, floats) for name, table in tables.items()}
    check_names(shapes, found | {name: table.shape for name, table in tables.items()})
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def quantize_model(model: MPlugOwl2Model, kind: str) -> MPlugOwl2Model:
    """Quantize a model that is in memory already; it is changed.

    Raises:
        ConfigError: the format does not fit the model's sizes.
    """
    weights = dict(model.named_parameters())
    for name, chosen in replace_linears(model, kind).items():
        buffers = quantize_weight(chosen, weights[f"{name}.weight"].detach())
        layer = model.get_submodule(name)
        layer.load_state_dict(buffers, assign=True, strict=False)  # a bias stays as it is
    return model


def _prepared(
    name: str,
    tensor: Tensor,
    layers: dict[str, str],
    floats: torch.dtype,
    device: str | torch.device,
) -> dict[str, Tensor]:
    """Bring a tensor to its dtype and device; a quantized weight becomes several."""
    layer, _, kind = name.rpartition(".")
    if layer not in layers or kind != "weight":
        leaves_file = bool(layers) and name not in _LOOKED_UP
        return {name: tensor.to(device, floats, copy=leaves_file)}
    buffers = quantize_weight(layers[layer], tensor.to(device))
    _return_freed_memory()
    return {f"{layer}.{part}": value for part, value in buffers.items()}


def _return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library (glibc) keeps it: 0.9 GB in all."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _tables(model: MPlugOwl2Model) -> dict[str, Tensor]:
    """Compute the fixed position tables by name."""
    return {
        f"{name}.{table}": value
        for name, part in model.named_modules()
        if isinstance(part, AbstractorAttention)
        for table, value in part.position_tables().items()
    }
