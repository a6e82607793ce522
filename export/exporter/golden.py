"""Golden requests: a served version has to give the scores that the same weights give in process.

    generated image files --in process: views, embedder, scorer --> expected SCORE, GATE
                          --server: ensemble of the version     --> served SCORE, GATE

The scorer in process may be TorchScript, when a server goes back to a version whose checkpoint is
gone, and the embedder may be the server's own, which can be too large to load a second time.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa.errors import CheckpointError
from ma_agiqa.pipeline import make_views

_SIDES = ((160, 120), (96, 96), (64, 200), (224, 224))

Scores = tuple[np.ndarray, np.ndarray]
"""SCORE float32 (N, 1) and GATE float32 (N, 3) of N images."""

Scorer = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
"""The network, eager or as TorchScript: quality views and embeddings to SCORE, GATE, ..."""


class Embedder(Protocol):
    """What is used of a `ma_agiqa.lmm.embedder.PromptEmbedder`."""

    @property
    def image_size(self) -> int: ...

    def __call__(self, views: Tensor, /) -> dict[str, Tensor]: ...


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
    """Image files and the scores that they must get.

    Attributes:
        images: encoded files.
        expected: their scores in process.
        tolerance: largest difference allowed, in MOS and in gate weights.
    """

    images: list[bytes]
    expected: Scores
    tolerance: float

    @classmethod
    @torch.inference_mode()
    def compute(cls, embedder: Embedder, scorer: Scorer, tolerance: float) -> "Golden":
        """Score the golden images in process.

        Args:
            embedder: on the CPU, or a running server's.
            scorer: on the CPU.
            tolerance: largest difference allowed, in MOS and in gate weights.
        """
        images = golden_images()
        quality, semantic = make_views(images, embedder.image_size)
        embeddings = embedder(semantic)
        score, gate = scorer(quality, embeddings["semantic"], embeddings["coherence"])[:2]
        return cls(images, (score.numpy(), gate.numpy()), tolerance)


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
