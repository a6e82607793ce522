"""How a scorer computes: in the order of the authors' code, or faster where its scores stay."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ma_agiqa.errors import CheckpointError
from ma_agiqa.networks.calibration import CalibratedScorer, UncalibratedScorer
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.scorer import MAAGIQA, ScorerOutput

ARITHMETICS = ("auto", "exact", "float32", "bfloat16", "float16")
"""How a scorer computes.

exact: float32 in the order of the authors' code. float32, bfloat16, float16: the faster order, in
that type. auto: the first of `AUTO` that passes its check, else exact.
"""

AUTO = {False: ("float32",), True: ("float16", "bfloat16", "float32")}
"""What `auto` tries, by whether the scorer is for a GPU, where 16 bits are much faster;
float16 first, because it rounds less."""

SCORE_TOLERANCE = 0.01
"""Largest change of a score by 16 bits that is accepted, where MOS runs from 0 to 5."""

ORDER_TOLERANCE = 1e-4
"""Largest change of any output by the faster order in float32, relative to values above 1."""

_IMAGES = 8  # on which arithmetics are compared

logger = logging.getLogger(__name__)

Inputs = tuple[Tensor, Tensor, Tensor]
"""Quality views, semantic and coherence embeddings of a batch."""


def choose_arithmetic(model: MAAGIQA, arithmetic: str, gpu: bool, mos_range: float) -> MAAGIQA:
    """Make the scorer that computes: in the exact order, or faster within the tolerances.

    Args:
        model: the scorer with the exact arithmetic, on any device.
        arithmetic: one of `ARITHMETICS`.
        gpu: whether it is for a GPU.
        mos_range: length of the scale of its scores.

    Returns:
        `model` itself where the exact arithmetic is chosen.

    Raises:
        CheckpointError: an arithmetic was asked for by name and changes the scores too much.
    """
    for name in (
        () if arithmetic == "exact" else AUTO[gpu] if arithmetic == "auto" else [arithmetic]
    ):
        fast = accelerate(model, getattr(torch, name), gpu=gpu)
        names: tuple[str, ...] = ("score",)
        limit = SCORE_TOLERANCE * mos_range / 5
        if name == "float32":
            names, limit = ScorerOutput._fields, ORDER_TOLERANCE
        change = _largest_change(model, fast, names, limit)
        if change <= limit:
            logger.info(
                "The scorer computes in the fast order (%s): its %s by at most %.1e",
                name,
                "outputs change" if name == "float32" else "scores change",
                change,
            )
            return fast
        if arithmetic != "auto":
            raise CheckpointError(
                f"--scorer {arithmetic} would change the outputs by {change:.3g}; at most "
                f"{limit:g} is accepted. Choose --scorer exact."
            )
        logger.info("Not in the fast order (%s), which would change it by %.1e", name, change)
    logger.info("The scorer computes exactly")
    return model


def random_inputs(model: MAAGIQA | CalibratedScorer | UncalibratedScorer, batch: int) -> Inputs:
    """Make inputs of a scorer, on the CPU; the same ones for the same batch size."""
    generator = torch.Generator().manual_seed(batch)
    side, width = model.config.image_size, model.config.semantic_dim
    view = torch.randint(0, 256, (batch, side, side, 3), generator=generator, dtype=torch.uint8)
    semantic, coherence = torch.randn(2, batch, width, generator=generator)
    return view, semantic, coherence


@torch.inference_mode()
def _largest_change(model: MAAGIQA, fast: MAAGIQA, names: Sequence[str], limit: float) -> float:
    """Compare image by image, up to the first one that changes by more than `limit`.

    Scores alone are compared as they are; several outputs relative to the largest value of each
    where that exceeds 1.
    """
    worst, device = 0.0, next(model.parameters()).device
    inputs = (part.to(device).split(1) for part in random_inputs(model, _IMAGES))
    for one in zip(*inputs, strict=True):
        exact, other = model(*one), fast(*one)
        for name in names:
            expected, got = getattr(exact, name), getattr(other, name)
            scale = 1.0 if len(names) == 1 else max(1.0, float(expected.abs().max()))
            worst = max(worst, float((expected - got).abs().max()) / scale)
        if not worst <= limit:
            break
    return worst
