"""Speed and rounding of the scorer, compared with the exact arithmetic."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.benchmark.machine import (
    PeakMemory,
    Products,
    Row,
    count_operations,
    gemm_rate,
    median_seconds,
    speed,
)
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

SCALE = 5.0  # MOS runs from 0 to 5
_SEED = 20
_CALIBRATION_IMAGES = 8
_LARGE_PRODUCT: Products = {(2048, 2048, 2048): 1}
"""A square product that reaches what the machine can do."""

Inputs = tuple[Tensor, Tensor, Tensor]


def random_scorer(config: MAAGIQAConfig, device: torch.device) -> MAAGIQA:
    """Make a scorer of random weights whose scores are spread as opinion scores are.

    Every layer starts as it would for training. Then the patch scores are lifted above their
    ReLU, and the last layer is scaled so that the sample's scores have a deviation of 1 around
    2.5: rounding shows on the scale 0-5.
    """
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        model = MAAGIQA(config).eval().to(device)
    with torch.inference_mode():
        if model.maniqa is not None:
            head: Any = model.maniqa.score_head[3]
            head.bias.fill_(1.0)
        score = _sample_scores(model, device)
        last: Any = model.fusion.regression
        last.weight.div_(score.std())
        last.bias.copy_((last.bias - score.mean()) / score.std() + SCALE / 2)
    return model


@torch.inference_mode()
def picture_deviation(model: MAAGIQA, device: torch.device) -> float:
    """Deviation of the sample's scores that the pictures alone cause, with equal embeddings.

    An untrained network hardly distinguishes pictures: compare its rounding with this number, too.
    """
    return float(_sample_scores(model, device, same_embeddings=True).std())


def _sample_scores(model: MAAGIQA, device: torch.device, same_embeddings: bool = False) -> Tensor:
    view, semantic, coherence = sample_inputs(model.config, _CALIBRATION_IMAGES, device)
    if same_embeddings:
        semantic, coherence = semantic[:1].expand_as(semantic), coherence[:1].expand_as(coherence)
    each = zip(view.split(1), semantic.split(1), coherence.split(1), strict=True)
    return torch.cat([model(*one).score for one in each])


def sample_inputs(config: MAAGIQAConfig, batch: int, device: torch.device) -> Inputs:
    """Make pictures from smooth to noisy, and embeddings; a larger batch begins with a smaller."""
    generator = torch.Generator().manual_seed(_SEED)
    side, width = config.image_size, config.semantic_dim
    views, embeddings = [], []
    for index in range(batch):
        cells = torch.rand(1, 3, 4 + 4 * (index % 6), 4 + 4 * (index % 6), generator=generator)
        smooth = F.interpolate(cells, (side, side), mode="bicubic")[0].permute(1, 2, 0)
        noise = torch.randn(side, side, 3, generator=generator) * 0.05 * (index % 4)
        views.append(((smooth + noise).clamp(0, 1) * 255).to(torch.uint8))
        embeddings.append(torch.randn(2, width, generator=generator))
    semantic, coherence = torch.stack(embeddings, dim=1)
    return torch.stack(views).to(device), semantic.to(device), coherence.to(device)


@torch.inference_mode()
def measure_scorer(
    model: MAAGIQA,
    batches: Sequence[int],
    dtype: torch.dtype | None,
    rounds: int = 3,
) -> Iterator[Row]:
    """Measure one batch size after the other.

    Args:
        model: the exact scorer in evaluation mode.
        batches: number of images in a forward pass, for each measurement.
        dtype: dtype of the fast arithmetic; None measures the exact one.
        rounds: forward passes that are timed, after one that is not.

    Yields:
        For each batch the speed, whose operations are those of the exact arithmetic, so that speeds
        can be compared; and the largest difference of a score (0 to 5) from the exact arithmetic
        in float32, and from the same image alone.
    """
    device = next(model.parameters()).device
    measured = model if dtype is None else accelerate(model, dtype)
    rate = gemm_rate(_LARGE_PRODUCT, dtype or torch.float32, device)
    flop, _ = count_operations(lambda: model(*sample_inputs(model.config, 1, device)))
    for batch in batches:
        inputs = sample_inputs(model.config, batch, device)
        memory = PeakMemory(device)
        together = measured(*inputs).score
        peak = memory.read()
        pass_s = median_seconds({"pass": lambda: measured(*inputs)}, rounds, device)["pass"]  # noqa: B023
        single = [tuple(part[i : i + 1] for part in inputs) for i in range(batch)]
        alone, exact = (torch.cat([way(*one).score for one in single]) for way in (measured, model))
        yield {
            **speed(batch, pass_s, flop * batch, rate, peak),
            "score difference from the exact arithmetic": float((together - exact).abs().max()),
            "score difference from the image alone": float((together - alone).abs().max()),
        }
