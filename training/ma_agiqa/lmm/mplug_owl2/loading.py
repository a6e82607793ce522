"""Loading mPLUG-Owl2 directly to its dtype and device, with the weights in memory once.

On a CPU, weights that are on the disk in the wanted dtype are not read at all: the model uses the
mapped file, and processes that serve the same file share its memory. The file must then not change
while the model is in use. Other weights are converted or quantized one tensor at a time, except
that the table of token embeddings stays mapped if it has the dtype of the arithmetic. On a CPU,
quantized weights are kept on the disk for the next start, which maps them.
"""

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ma_agiqa.allocator import return_freed_memory
from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.mplug_owl2.abstractor import AbstractorAttention
from ma_agiqa.lmm.mplug_owl2.configuration import MPlugOwl2Config
from ma_agiqa.lmm.mplug_owl2.model import UNUSED, MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.quantization import (
    QUANTIZED,
    Int8ProductLinear,
    packed_bytes,
    packed_in_place,
    packed_layout,
    quantize_weight,
    replace_linears,
)
from ma_agiqa.lmm.mplug_owl2.quantized_files import kept_tensors
from ma_agiqa.lmm.mplug_owl2.weight_files import Named, read_tensors
from ma_agiqa.networks.exact_loading import check_names

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Weight formats that are a dtype of torch."""

DTYPES = (*FLOATS, *QUANTIZED)
"""All weight formats."""

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
        dtype: format of the weights, of `DTYPES`. For int8, int4 and fp8 the weights are quantized
            while they are read; on a CPU they are kept in a folder next to the weights.
        device: device of the model.

    Raises:
        ConfigError: see `compute_dtype`.
        CheckpointError: tensors are missing, left over or of another shape; it lists them.
    """
    floats = compute_dtype(dtype, device)
    with torch.device("meta"):
        model = MPlugOwl2Model(MPlugOwl2Config.from_pretrained(source))
        model.to(floats)  # type: ignore[arg-type]
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    layers = {} if dtype in FLOATS else replace_linears(model, dtype, device)

    def make() -> Iterator[tuple[str, Tensor]]:
        yield from _prepared_tensors(source, model, shapes, layers, floats, device)

    kept = None
    if layers and torch.device(device).type == "cpu":
        kept = _kept(source, dtype, model, make)
    model.load_state_dict(dict(make() if kept is None else kept), assign=True)
    return model.eval().requires_grad_(False)


def _kept(
    source: str, dtype: str, model: MPlugOwl2Model, make: Callable[[], Iterator[Named]]
) -> Iterator[Named] | None:
    """Read a model's quantized weights from the disk, see `kept_tensors`."""
    parts = dict(model.named_modules())
    packed = {
        f"{name}.weight": part.weight.shape
        for name, part in parts.items()
        if isinstance(part, Int8ProductLinear)
    }
    examples = {
        shape: Int8ProductLinear.pack(torch.zeros(shape[::-1], dtype=torch.int8))
        for shape in dict.fromkeys(packed.values())
    }
    kept = kept_tensors(
        source,
        dtype,
        (packed_layout(example) for example in examples.values()),
        sum(value.nbytes for value in model.state_dict().values()),
        lambda: ((n, packed_bytes(v) if v.is_mkldnn else v) for n, v in make()),
    )
    if kept is None:
        return None
    return (
        (name, packed_in_place(value, examples[packed[name]]) if name in packed else value)
        for name, value in kept
    )


def quantize_model(model: MPlugOwl2Model, kind: str) -> MPlugOwl2Model:
    """Quantize a model that is in memory already; it is changed.

    Raises:
        ConfigError: the format does not fit the model's sizes.
    """
    weights = dict(model.named_parameters())
    for name, chosen in replace_linears(model, kind, model.device).items():
        layer = model.get_submodule(name)
        buffers = _quantized(layer, chosen, weights[f"{name}.weight"].detach())
        layer.load_state_dict(buffers, assign=True, strict=False)  # a bias stays as it is
    return model


def _prepared_tensors(
    source: str,
    model: MPlugOwl2Model,
    shapes: dict[str, torch.Size],
    layers: dict[str, str],
    floats: torch.dtype,
    device: str | torch.device,
) -> Iterator[Named]:
    """Bring tensors to their dtype and device; a quantized weight becomes several."""
    found: dict[str, torch.Size] = {}
    stay_mapped = torch.device(device).type == "cpu" and not layers
    for published, tensor in read_tensors(source, stay_mapped):
        name = published.removeprefix("model.")
        if any(re.fullmatch(pattern, published) for pattern in UNUSED):
            continue
        found[name] = tensor.shape
        layer, _, kind = name.rpartition(".")
        if shapes.get(name) != tensor.shape:
            continue  # an error, when all are known
        if layer in layers and kind == "weight":
            buffers = _quantized(model.get_submodule(layer), layers[layer], tensor.to(device))
            return_freed_memory()  # 0.9 GB in all
            yield from ((f"{layer}.{part}", value) for part, value in buffers.items())
        else:
            leaves_file = bool(layers) and name not in _LOOKED_UP
            yield name, tensor.to(device, floats, copy=leaves_file)
    tables = {name: t for name, t in _tables(model).items() if name not in found}
    yield from ((name, table.to(device, floats)) for name, table in tables.items())
    check_names(shapes, found | {name: table.shape for name, table in tables.items()})


def _quantized(layer: nn.Module, kind: str, weight: Tensor) -> dict[str, Tensor]:
    """Quantize a weight (out, in) to the buffers of its layer."""
    buffers = quantize_weight(kind, weight)
    if isinstance(layer, Int8ProductLinear):
        buffers["weight"] = layer.pack(buffers["weight"])
    return buffers


def _tables(model: MPlugOwl2Model) -> dict[str, Tensor]:
    """Compute the fixed position tables by name."""
    return {
        f"{name}.{table}": value
        for name, part in model.named_modules()
        if isinstance(part, AbstractorAttention)
        for table, value in part.position_tables().items()
    }
