"""Every dtype of mPLUG-Owl2: both paths agree; a batch does not change an image.

At the golden size (4 decoder layers, width 128). Tolerances are stated in docs/benchmarks.md.
"""

import pytest
import torch

from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.loading import FLOATS, compute_dtype, quantize_model
from ma_agiqa.lmm.mplug_owl2.quantization import (
    Float8Linear,
    Int4Linear,
    Int8Linear,
    Int8ProductLinear,
)

ON_CPU = ["float32", "float16", "bfloat16", "int8", "int4"]

COSINE = {
    "float32": 0.999999,
    "float16": 0.9999,
    "bfloat16": 0.9999,
    "int8": 0.9999,
    "int4": 0.9999,
}
"""Smallest cosine of two ways to compute the same embedding at one dtype."""

AGAINST_FLOAT32 = {"float16": 0.9999, "bfloat16": 0.9995, "int8": 0.999, "int4": 0.9}
"""Smallest cosine with float32's embedding, of these random weights."""


def build(tiny_owl: dict, dtype: str, device: str = "cpu") -> PromptEmbedder:
    model = MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"])
    model = model.to(device, compute_dtype(dtype, device))
    if dtype not in FLOATS:
        quantize_model(model, dtype)
    return PromptEmbedder(model, tiny_owl["input_ids"])


def views(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 112, 112, 3), dtype=torch.uint8, generator=generator)


def smallest_cosine(first: dict, second: dict) -> float:
    return min(
        torch.nn.functional.cosine_similarity(first[name], second[name]).min().item()
        for name in first
    )


def largest_difference(first: dict, second: dict) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.fixture(scope="module")
def embedders(tiny_owl) -> dict[str, PromptEmbedder]:
    return {dtype: build(tiny_owl, dtype) for dtype in ON_CPU}


@pytest.mark.parametrize("dtype", ON_CPU)
def test_the_cached_path_equals_the_plain_one(embedders, dtype):
    fast, plain = (run(views(3)) for run in (embedders[dtype], embedders[dtype].full_sequence))
    assert smallest_cosine(fast, plain) >= COSINE[dtype]
    if dtype == "float32":
        assert largest_difference(fast, plain) <= 1e-5


@pytest.mark.parametrize("dtype", ON_CPU)
def test_an_image_is_the_same_alone_and_in_any_batch(embedders, dtype):
    images = views(9)
    together = embedders[dtype](images)
    for size in (1, 2, 4):
        parts = [embedders[dtype](part) for part in images.split(size)]
        apart = {name: torch.cat([part[name] for part in parts]) for name in together}
        assert smallest_cosine(apart, together) >= COSINE[dtype]
        if dtype == "float32":
            assert largest_difference(apart, together) <= 1e-5


@pytest.mark.parametrize("dtype", list(AGAINST_FLOAT32))
def test_a_dtype_stays_close_to_float32(embedders, dtype):
    exact = embedders["float32"](views(3))
    assert smallest_cosine(embedders[dtype](views(3)), exact) >= AGAINST_FLOAT32[dtype]


def test_every_linear_layer_is_narrow_and_the_decoder_narrowest(embedders):
    decoder = 4 * 9  # layers of q, 2 k, 2 v, o, gate, up, down
    others = 3 * 4 + 2 * 7 + 1  # vision and abstractor
    for dtype, eight, four in (("int8", decoder + others, 0), ("int4", others, decoder)):
        parts = list(embedders[dtype].model.modules())
        assert sum(isinstance(part, Int8Linear) for part in parts) == eight
        assert sum(isinstance(part, Int4Linear) for part in parts) == four
        assert embedders[dtype].model.dtype == torch.bfloat16


@pytest.mark.parametrize(("kind", "bits"), [(Int8Linear, 8), (Int4Linear, 4)])
def test_a_quantized_weight_is_within_half_a_step(kind, bits):
    linear = torch.nn.Linear(512, 96, bias=True, dtype=torch.float32)
    layer = kind(linear)
    layer.load_state_dict(kind.quantize(linear.weight.detach()), assign=True, strict=False)
    unpacked = layer.dequantize(0, 96, torch.float32)
    step = 2 * linear.weight.abs().max() / (2**bits - 2)
    assert (unpacked - linear.weight).abs().max() <= 0.51 * step + 1e-3 * linear.weight.abs().max()
    hidden = torch.randn(2, 5, 512)
    expected = torch.nn.functional.linear(hidden, unpacked, linear.bias)
    torch.testing.assert_close(layer(hidden), expected)
    layer.block_bytes = 512 * 4 * 7  # seven outputs at a time
    torch.testing.assert_close(layer(hidden), expected)


def int8_product_layer(
    width: int = 512, outputs: int = 96
) -> tuple[Int8ProductLinear, torch.Tensor]:
    """A layer with a bias, and its weight after quantization (outputs, width)."""
    if not Int8ProductLinear.is_fast():
        pytest.skip("needs a CPU with VNNI instructions")
    linear = torch.nn.Linear(width, outputs, dtype=torch.bfloat16).requires_grad_(False)
    layer = Int8ProductLinear(linear)
    buffers = layer.quantize(linear.weight)
    buffers["weight"] = layer.pack(buffers["weight"])
    layer.load_state_dict(buffers, assign=True, strict=False)
    return layer, layer.dequantize(0, outputs, torch.float32)


def relative_error(layer: Int8ProductLinear, weight: torch.Tensor, rows: torch.Tensor) -> float:
    exact = torch.nn.functional.linear(rows.float(), weight, layer.bias.float())
    return ((layer(rows).float() - exact).norm() / exact.norm()).item()


def test_products_of_8_bits_are_close_and_each_token_has_its_own_scale():
    layer, weight = int8_product_layer()
    rows = torch.randn(2, 5, 512).bfloat16() * torch.logspace(-3, 3, 5)[:, None].bfloat16()
    assert relative_error(layer, weight, rows) < 0.015
    for index in range(5):
        assert torch.equal(layer(rows[:, index : index + 1]), layer(rows)[:, index : index + 1])


def test_a_token_with_outliers_is_multiplied_in_16_bits(monkeypatch):
    """Measured on the other channels: the error that a large one leaves to them."""
    layer, weight = int8_product_layer()
    rows = torch.randn(9, 512).bfloat16()
    rows[::2, 7] = 100
    large = torch.zeros_like(rows)
    large[::2, 7] = 100

    def error_of_the_others() -> float:
        exact = torch.nn.functional.linear((rows - large).float(), weight)
        from_large = torch.nn.functional.linear(large.float(), weight, layer.bias.float())
        made = layer(rows).float() - from_large
        return ((made - exact)[::2].norm() / exact[::2].norm()).item()

    assert error_of_the_others() < 0.03  # bfloat16 rounds the sum
    monkeypatch.setattr(Int8ProductLinear, "outlier", (torch.inf, torch.inf))
    assert error_of_the_others() > 0.15


@pytest.mark.parametrize(("outputs", "more_bits"), [(96, 0), (1024, 1)])
def test_products_of_a_gate_need_no_16_bits(outputs, more_bits):
    """The largest value is 14 times the root of the mean square, without outlying channels."""
    layer, _ = int8_product_layer(512, outputs)
    row = torch.ones(1, 512).bfloat16()
    row[0, 0] = 17.75
    assert len(layer._rounded(row)[2]) == more_bits


def test_a_row_that_is_not_finite_stays_its_own():
    layer, weight = int8_product_layer()
    rows = torch.randn(6, 512).bfloat16()
    rows[1, 3], rows[4, 5], rows[5] = float("nan"), float("inf"), 0
    made = layer(rows)
    assert not torch.isfinite(made[[1, 4]]).any()
    assert relative_error(layer, weight, rows[[0, 2, 3]]) < 0.015
    assert torch.equal(made[5], layer.bias)


def test_int4_packs_two_weights_in_a_byte():
    packed = Int4Linear.quantize(torch.randn(32, 512))
    assert packed["weight"].shape == (32, 256)
    assert packed["scale"].shape == (32, 4, 1)


def test_a_row_of_zeros_stays_zero():
    for kind in (Int8Linear, Int4Linear, Float8Linear):
        buffers = kind.quantize(torch.zeros(4, 256))
        assert all(torch.isfinite(value.float()).all() for value in buffers.values())
        assert not buffers["weight"].float().any()


def test_a_width_that_int4_cannot_divide_is_said():
    with pytest.raises(ConfigError, match="one has 300"):
        Int4Linear(torch.nn.Linear(300, 8))


def test_float8_keeps_three_bits_and_the_sign():
    weight = torch.randn(16, 64)
    packed = Float8Linear.quantize(weight)
    unpacked = packed["weight"].float() * packed["scale"]
    assert ((unpacked - weight).abs() <= weight.abs() / 15 + packed["scale"] * 2**-9).all()


@pytest.mark.parametrize(
    ("dtype", "said"), [("fp8", "needs a GPU"), ("float64", "choose from"), ("int2", "choose from")]
)
def test_a_dtype_that_cannot_be_is_refused(dtype, said):
    with pytest.raises(ConfigError, match=said):
        compute_dtype(dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "int4", "fp8"])
def test_graphs_on_the_gpu_equal_the_cpu(tiny_owl, embedders, dtype):
    if dtype == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs an Ada or Hopper GPU")
    embedder = build(tiny_owl, dtype, "cuda")
    exact = embedders["float32"](views(5))
    for _ in range(2):  # recorded, then replayed; 5 images are padded to 8
        replayed = {name: value.cpu() for name, value in embedder(views(5)).items()}
        pixels = embedder.pixels(views(5))  # floats go the plain way
        direct = {name: value.cpu() for name, value in embedder(pixels).items()}
        assert smallest_cosine(replayed, direct) >= 0.9999
        assert smallest_cosine(replayed, exact) >= AGAINST_FLOAT32.get(dtype, 0.99)
    alone = {name: value.cpu() for name, value in embedder(views(5)[:1]).items()}
    assert smallest_cosine(alone, {name: value[:1] for name, value in replayed.items()}) >= 0.9999
