"""Golden requests: a served version has to give the scores that the same weights give in process.

    generated image files --in process: views, embeddings, scorer--> expected SCORE, GATE
                          --the server: ensemble of the version --> served SCORE, GATE

The embeddings are computed in process for the demo's LMM. For another, 16.4 GB, they are asked of
the server's `mplug_owl2`, which an activation never changes; the new scorer runs in process in
either case.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa.errors import CheckpointError
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, build_embedder

__all__ = ["Golden", "Scores", "compare", "embed_in_process", "golden_images"]

_SIDES = ((160, 120), (96, 96), (64, 200), (224, 224))

Scores = tuple[np.ndarray, np.ndarray]
"""SCORE float32 (N, 1) and GATE float32 (N, 3) of N images."""

Embed = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Semantic views uint8 (N, S, S, 3) to SEMANTIC and COHERENCE, float32 (N, hidden)."""

Network = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
"""The scorer: quality views uint8 (N, 224, 224, 3) and embeddings to SCORE, GATE, ..."""


def golden_images() -> list[bytes]:
    """Image files of several shapes, formats and contents; the same on every machine."""
    rng = np.random.default_rng(0)
    images = []
    for number, (width, height) in enumerate(_SIDES):
        y, x = np.mgrid[0:height, 0:width]
        smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], axis=-1)
        rough = rng.integers(0, 256, (height, width, 3))
        share = number / (len(_SIDES) - 1)
        pixels = ((1 - share) * smooth + share * rough).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG" if number % 2 else "JPEG")
        images.append(file.getvalue())
    return images


@dataclass(frozen=True)
class Golden:
    """Image files and what they have to score.

    Attributes:
        images: encoded files.
        expected: their scores in process.
        tolerance: largest difference allowed, in MOS and in gate weights.
    """

    images: list[bytes]
    expected: Scores
    tolerance: float

    @classmethod
    def compute(cls, network: Network, embed: Embed, view_size: int, tolerance: float) -> "Golden":
        """Score the golden images in process.

        Args:
            network: the scorer, on the CPU.
            embed: the LMM.
            view_size: side of the semantic view.
            tolerance: as the attribute.
        """
        images = golden_images()
        pixels = [decode(image) for image in images]
        quality = torch.from_numpy(np.stack([quality_view(rgb) for rgb in pixels]))
        semantic = torch.from_numpy(np.stack([semantic_view(rgb, view_size) for rgb in pixels]))
        with torch.inference_mode():
            score, gate = network(quality, *embed(semantic))[:2]
        return cls(images, (score.numpy(), gate.numpy()), tolerance)


def embed_in_process(views: Tensor) -> tuple[Tensor, Tensor]:
    """Embed views by the demo's LMM."""
    embeddings = build_embedder(DEMO_EMBEDDER)(views)
    return embeddings["semantic"], embeddings["coherence"]


def compare(golden: Golden, served: Scores, where: str) -> float:
    """Compare served scores with the expected ones.

    Returns:
        The largest difference.

    Raises:
        CheckpointError: it is above the tolerance, or not a number.
    """
    worst = 0.0
    for name, expected, given in zip(("SCORE", "GATE"), golden.expected, served, strict=True):
        difference = float(np.abs(expected - given).max())
        if not difference <= golden.tolerance:
            raise CheckpointError(
                f"{where} gives another {name} than the same weights in process: the largest "
                f"difference over {len(golden.images)} golden images is {difference:.3g}; at most "
                f"{golden.tolerance:g} is accepted."
            )
        worst = max(worst, difference)
    return worst
