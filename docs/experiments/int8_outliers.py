"""Accuracy and time of int8 embeddings at the paper's width, with and without outlier channels.

    python docs/experiments/int8_outliers.py --layers 2 --threads 1

Random weights have no channels with large values, trained decoders have. So the second table is of
weights to which they were planted: five channels of every norm, and of what the value, up and
first layers give, are 20 to 100 times larger.
"""

import argparse
import copy
import sys
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.benchmark.embedder import random_images
from ma_agiqa.benchmark.machine import describe, seconds
from ma_agiqa.benchmark.random_weights import cut_layers, random_tensors
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config, MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.loading import quantize_model
from ma_agiqa.lmm.mplug_owl2.quantization import Int8Linear, Int8ProductLinear

NEVER = float("inf")
LIMITS = ((NEVER, NEVER), (32.0, 32.0), (12.0, 12.0), Int8ProductLinear.outlier)
CHANNELS, TIMES = 5, (20, 100)
GIVING = ("up_proj.weight", "fc1.weight", "v_proj.multiway.0.weight", "v_proj.multiway.1.weight")


def plant(weights: dict[str, Tensor]) -> None:
    """Make a few channels larger."""
    generator = torch.Generator().manual_seed(1)
    for name, value in weights.items():
        is_norm = value.ndim == 1 and "norm" in name and name.endswith(".weight")
        if is_norm or name.endswith(GIVING):
            channels = torch.randperm(len(value), generator=generator)[:CHANNELS]
            factors = torch.empty(CHANNELS).uniform_(*TIMES, generator=generator)
            value[channels] *= factors if is_norm else factors[:, None]


def model(config: MPlugOwl2Config, planted: bool) -> MPlugOwl2Model:
    """Make the model in float32."""
    named = random_tensors(config, torch.float32)
    weights = {n.removeprefix("model."): v for n, v in named if not n.startswith("lm_head")}
    if planted:
        plant(weights)
    with torch.device("meta"):
        empty = MPlugOwl2Model(config)
    empty.load_state_dict(weights, assign=True)
    return empty.eval()


def weights_only(network: MPlugOwl2Model) -> MPlugOwl2Model:
    """Quantize weights, and compute in 16 bits as on a CPU without VNNI."""
    is_fast = Int8ProductLinear.is_fast
    Int8ProductLinear.is_fast = staticmethod(lambda: False)  # type: ignore[method-assign]
    quantized = quantize_model(network, "int8")
    assert any(type(part) is Int8Linear for part in quantized.modules())
    Int8ProductLinear.is_fast = is_fast  # type: ignore[method-assign]
    return quantized


def table(config: MPlugOwl2Config, planted: bool, rounds: int) -> None:
    """Print cosines with float32 and seconds per image, in alternating passes."""
    network = model(config, planted)
    images = random_images(PromptEmbedder(network), 1)
    exact = PromptEmbedder(network)(images)
    network.to(torch.bfloat16)  # type: ignore[arg-type]
    narrow = quantize_model(copy.deepcopy(network), "int8")
    kinds = {
        "bfloat16": (PromptEmbedder(network), None),
        "int8 weights, bfloat16 products": (
            PromptEmbedder(weights_only(copy.deepcopy(network))),
            None,
        ),
        **{
            f"int8, 16 bits from {few:g} and {many:g}": (PromptEmbedder(narrow), (few, many))
            for few, many in LIMITS
        },
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    cosines = {}
    for _ in range(rounds + 1):  # the first round is not counted
        for name, (embedder, limit) in kinds.items():
            Int8ProductLinear.outlier = limit or Int8ProductLinear.outlier
            times[name].append(seconds(lambda e=embedder: e(images), "cpu"))  # type: ignore[misc]
            made = embedder(images) if name not in cosines else exact
            cosines.setdefault(
                name, min(F.cosine_similarity(made[n], exact[n]).min().item() for n in exact)
            )
    sys.stdout.write(f"{'planted' if planted else 'random'} weights{'':18}cosine  s/image  ratio\n")
    usual = median(times["bfloat16"][1:])
    for name in kinds:
        taken = median(times[name][1:])
        row = f"{name:32}{cosines[name]:.6f}  {taken:7.2f}  {usual / taken:5.2f}\n"
        sys.stdout.write(row)
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sys.stdout.write(f"{describe('cpu')}, {given.layers} of 32 decoder layers\n")
    for planted in (False, True):
        table(cut_layers(MPlugOwl2Config(), given.layers), planted, given.rounds)


if __name__ == "__main__":
    main()
