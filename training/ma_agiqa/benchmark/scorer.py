"""Speed and rounding of the scorer, compared with the exact arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.benchmark.machine import GemmShape, PeakMemory, gemm_rate, seconds
from ma_agiqa.benchmark.operations import count_operations
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

SCALE = 5.0  # MOS runs from 0 to 5
_SEED = 20
_CALIBRATION_IMAGES = 8
_LARGE_PRODUCT = GemmShape(2048, 2048, 2048, times=1)
"""A square product that reaches what the machine can do."""

Inputs = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class ScorerSpeed:
    """What was measured at one batch size.

    Attributes:
        batch: number of images in a forward pass.
        seconds_per_image: median over the rounds, divided by the batch.
        flop_per_image: operations of the exact arithmetic, see `operations.count_operations`; the
            same number for a faster arithmetic, so that speeds can be compared.
        gemm_flop_per_s: rate of a large matrix product of the same dtype on this machine.
        peak_memory_bytes: peak memory of this process, or of the GPU's tensors.
        score_difference: largest difference from the exact arithmetic in float32, on the scale 0-5.
        batch_difference: largest difference between an image in this batch and the same image
            alone.
    """

    batch: int
    seconds_per_image: float
    flop_per_image: int
    gemm_flop_per_s: float
    peak_memory_bytes: int
    score_difference: float
    batch_difference: float

    @property
    def flop_per_s(self) -> float:
        """Operations per second that were reached."""
        return self.flop_per_image / self.seconds_per_image

    @property
    def gemm_share(self) -> float:
        """Share of the matrix product's rate that was reached, 0 to 1."""
        return self.flop_per_s / self.gemm_flop_per_s


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
    device: torch.device,
    rounds: int = 3,
) -> Iterator[ScorerSpeed]:
    """Measure one batch size after the other.

    Args:
        model: the exact scorer, on `device`, in evaluation mode.
        batches: number of images in a forward pass, for each measurement.
        dtype: dtype of the fast arithmetic; None measures the exact one.
        device: device of the scorer.
        rounds: forward passes that are timed, after one that is not.
    """
    measured = model if dtype is None else accelerate(model, dtype)
    gemm = gemm_rate([_LARGE_PRODUCT], dtype or torch.float32, device)
    flop, _ = count_operations(lambda: model(*sample_inputs(model.config, 1, device)))
    for batch in batches:
        inputs = sample_inputs(model.config, batch, device)
        memory = PeakMemory(device)
        together = measured(*inputs).score.flatten().cpu()
        peak = memory.read()
        times = [seconds(lambda: measured(*inputs), device) for _ in range(rounds)]  # noqa: B023
        single = [tuple(part[i : i + 1] for part in inputs) for i in range(batch)]
        alone = torch.cat([measured(*one).score.flatten().cpu() for one in single])
        exact = torch.cat([model(*one).score.flatten().cpu() for one in single])
        yield ScorerSpeed(
            batch=batch,
            seconds_per_image=median(times) / batch,
            flop_per_image=flop,
            gemm_flop_per_s=gemm,
            peak_memory_bytes=peak,
            score_difference=float((together - exact).abs().max()),
            batch_difference=float((together - alone).abs().max()),
        )


def summary(speed: ScorerSpeed) -> str:
    """Describe one batch size in five lines."""
    return (
        f"batch {speed.batch}\n"
        f"  time      {speed.seconds_per_image:.4g} s/image, "
        f"{1 / speed.seconds_per_image:.3g} images/s\n"
        f"  work      {speed.flop_per_image / 1e9:.4g} GFLOP/image, "
        f"{speed.flop_per_s / 1e9:.4g} GFLOP/s: {speed.gemm_share:.0%} of the "
        f"{speed.gemm_flop_per_s / 1e9:.4g} of a matrix product\n"
        f"  memory    {speed.peak_memory_bytes / 2**30:.2f} GiB at most\n"
        f"  scores    differ by at most {speed.score_difference:.2g} from the exact arithmetic, "
        f"{speed.batch_difference:.2g} from the same image alone"
    )
