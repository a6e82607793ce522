"""Speed and rounding of the scorer, beside the exact arithmetic and the authors' code."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.benchmark.machine import GemmShape, PeakMemory, gemm_rate, seconds
from ma_agiqa.benchmark.official import OfficialScorer
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

__all__ = [
    "Official",
    "ScorerSpeed",
    "measure_scorer",
    "picture_deviation",
    "random_scorer",
    "scorer_flop",
]

SCALE = 5.0  # MOS runs from 0 to 5
_SEED = 20
_CALIBRATION_IMAGES = 8
_LARGE_PRODUCT = GemmShape(2048, 2048, 2048, times=1)
"""A square product that reaches what the machine can do."""

Inputs = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Official:
    """Where the authors' code is: a clone of theirs, and an interpreter in which it runs."""

    checkout: Path
    python: str


@dataclass(frozen=True)
class ScorerSpeed:
    """What was measured for one batch size.

    Attributes:
        batch: images in a forward pass.
        seconds_per_image: median over the rounds, divided by the batch.
        flop_per_image: of the function, see `scorer_flop`.
        gemm_flop_per_s: of a large matrix product of the same type on this machine.
        peak_memory_bytes: of this process, or of the GPU's tensors.
        score_difference: the largest from the exact arithmetic in float32, on the scale 0-5.
        batch_difference: the largest between an image in this batch and the same image alone.
        official_seconds_per_image: the authors' code in float32, in turns with ours.
        official_difference: the largest |score - theirs|.
    """

    batch: int
    seconds_per_image: float
    flop_per_image: int
    gemm_flop_per_s: float
    peak_memory_bytes: int
    score_difference: float
    batch_difference: float
    official_seconds_per_image: float | None = None
    official_difference: float | None = None

    @property
    def flop_per_s(self) -> float:
        """Achieved."""
        return self.flop_per_image / self.seconds_per_image

    @property
    def gemm_share(self) -> float:
        """Achieved, as a share of the matrix product's rate."""
        return self.flop_per_s / self.gemm_flop_per_s


def scorer_flop(model: MAAGIQA) -> int:
    """Count the floating-point operations that one image needs, 2 for a multiply and add.

    Matrix products and convolutions of the paper's function, with N patches, D the ViT's width
    and L its blocks in use, and stages of width c from C, with a transposed attentions, l layers
    of b Swin blocks, windows of w patches and m hidden units:

        ViT        2 N D 3 p^2 + L (24 (N + 1) D^2 + 4 (N + 1)^2 D)
        stage      a (6 C N^2 + 4 C^2 N) + 2 N C c + l b N (8 c^2 + 4 c m + 4 c w) + l 18 N c^2
        heads      4 N (h^2 + h), h = D / 2
        fusion     2 N^2 + 4 S N + 18 N + 2 N, S the width of a prompt embedding

    It stays the same whatever a faster arithmetic saves, so that speeds can be compared.
    """
    config, n = model.config, model.grid**2
    vit = model.maniqa.backbone.vit
    d, patch = vit.embed_dim, config.image_size // model.grid
    tokens, half = n + 1, d // 2
    flop = 2 * n * d * 3 * patch**2
    flop += len(vit.blocks) * (24 * tokens * d**2 + 4 * tokens**2 * d)
    for wide, narrow in ((d * len(config.feature_blocks), d), (d, half)):
        flop += _stage_flop(config, n, wide, narrow)
    flop += 4 * n * (half**2 + half)
    return flop + 2 * n**2 + 4 * config.semantic_dim * n + 18 * n + 2 * n


def _stage_flop(config: MAAGIQAConfig, n: int, wide: int, narrow: int) -> int:
    attention = config.num_transposed_attention * (6 * wide * n**2 + 4 * wide**2 * n)
    window, hidden = config.swin_window**2, config.swin_mlp_dim
    block = n * (8 * narrow**2 + 4 * narrow * hidden + 4 * narrow * window)
    layers = sum(config.swin_depths) * block + len(config.swin_depths) * 18 * n * narrow**2
    return attention + 2 * n * wide * narrow + layers


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
            model.maniqa.score_head[3].bias.fill_(1.0)
        score = _sample_scores(model, device)
        last = model.fusion.regression
        last.weight.div_(score.std())
        last.bias.copy_((last.bias - score.mean()) / score.std() + SCALE / 2)
    return model


@torch.inference_mode()
def picture_deviation(model: MAAGIQA, device: torch.device) -> float:
    """Deviation of the sample's scores by the pictures alone, all with the same embeddings.

    A network that is not trained hardly tells pictures apart, so its rounding is to be read
    beside this number too.
    """
    return float(_sample_scores(model, device, same_embeddings=True).std())


def _sample_scores(model: MAAGIQA, device: torch.device, same_embeddings: bool = False) -> Tensor:
    view, semantic, coherence = sample_inputs(model.config, _CALIBRATION_IMAGES, device)
    if same_embeddings:
        semantic, coherence = semantic[:1].expand_as(semantic), coherence[:1].expand_as(coherence)
    each = zip(view.split(1), semantic.split(1), coherence.split(1), strict=True)
    return torch.cat([model(*one).score for one in each])


def sample_inputs(config: MAAGIQAConfig, batch: int, device: torch.device) -> Inputs:
    """Make pictures from smooth to noisy, and prompt embeddings; the first ones stay the same."""
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
    official: Official | None = None,
) -> Iterator[ScorerSpeed]:
    """Measure the batch sizes one after the other.

    Args:
        model: on `device`, in evaluation mode.
        batches: images in a forward pass.
        dtype: of the fast arithmetic; None measures the exact one.
        device: that computes.
        rounds: forward passes that are timed, after one that is not.
        official: runs the authors' code in turns with ours, on the same weights and inputs.

    Raises:
        ConfigError: the authors' code does not run.
    """
    measured = model if dtype is None else accelerate(model, dtype)
    gemm = gemm_rate([_LARGE_PRODUCT], dtype or torch.float32, device)
    with contextlib.ExitStack() as stack:
        other = None
        if official is not None:
            other = stack.enter_context(
                OfficialScorer(
                    official.python, official.checkout, torch.get_num_threads(), device.type
                )
            )
            other.load(model)
        for batch in batches:
            yield _measure(model, measured, batch, gemm, device, rounds, other)


def _measure(
    model: MAAGIQA,
    measured: MAAGIQA,
    batch: int,
    gemm: float,
    device: torch.device,
    rounds: int,
    official: OfficialScorer | None,
) -> ScorerSpeed:
    inputs = sample_inputs(model.config, batch, device)
    memory = PeakMemory(device)
    together = measured(*inputs).score.flatten().cpu()
    peak = memory.read()
    ours, theirs, official_score = [], [], None
    for _ in range(rounds):
        ours.append(seconds(lambda: measured(*inputs), device))
        if official is not None:
            time_s, official_score = official.score(inputs)
            theirs.append(time_s)
    single = [tuple(part[i : i + 1] for part in inputs) for i in range(batch)]
    alone = torch.cat([measured(*one).score.flatten().cpu() for one in single])
    exact = torch.cat([model(*one).score.flatten().cpu() for one in single])
    return ScorerSpeed(
        batch,
        median(ours) / batch,
        scorer_flop(model),
        gemm,
        peak,
        float((together - exact).abs().max()),
        float((together - alone).abs().max()),
        median(theirs) / batch if theirs else None,
        None if official_score is None else float((together - official_score).abs().max()),
    )
