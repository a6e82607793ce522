"""MA-AGIQA from an image file to its score: the paper's Fig. 3 in one class.

file -> pixels -> semantic view -> embedder -> SEMANTIC, COHERENCE      (Eq. 3)
             \\--> quality view, SEMANTIC, COHERENCE -> scorer -> SCORE  (Eq. 1, 2, 4)

scorer = ImageScorer.load("training/checkpoints/demo")
output = scorer([Path("image.png").read_bytes()])
output.score  # (1, 1), a predicted MOS
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity, check_binding
from ma_agiqa.errors import ConfigError, InvalidImageError
from ma_agiqa.images.tensor_views import quality_pixels, semantic_pixels
from ma_agiqa.images.views import RGB, decode, quality_view, semantic_view
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.networks.calibration import CalibratedScorer
from ma_agiqa.networks.precision import exact_float32
from ma_agiqa.networks.scorer import MAAGIQA, ScorerOutput


class ImageScorer:
    """Scores images in this process, without a server.

    Args:
        embedder: mPLUG-Owl2 with the paper's two prompts.
        scorer: the network; it is put into evaluation mode and frozen. A copy made by
            `networks.fast_maniqa.accelerate` is faster; a `CalibratedScorer` also gives what its
            scores are worth (`networks.calibration.CalibratedOutput`).

    Raises:
        ConfigError: the scorer takes embeddings of another width.
    """

    def __init__(self, embedder: PromptEmbedder, scorer: MAAGIQA | CalibratedScorer) -> None:
        require_width(scorer, embedder.hidden_size)
        self.embedder = embedder
        self.scorer: Any = scorer.eval().requires_grad_(False)

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str],
        embedder: str | None = None,
        device: str | torch.device = "cpu",
        dtype: str | None = None,
    ) -> "ImageScorer":
        """Load both networks.

        Args:
            checkpoint: path of the scorer, as `checkpoints.load_scorer` takes it.
            embedder: source of the embedder, as `lmm.sources.build_embedder` takes it; by default
                the one that the checkpoint's card names. Its weights must be those that the scorer
                was trained with.
            device: device of both networks.
            dtype: what the embedder's weights are kept in, of `lmm.sources.DTYPES`; by default what
                the scorer was trained with, else float32. The scorer's are float32.

        Raises:
            CheckpointError: weights that cannot be read or do not fit.
            ConfigError: a dtype that cannot be used, an embedder that the scorer was not trained
                with, or a card that names none.
        """
        scorer, card = load_scorer(checkpoint)
        source = embedder or card.embedder.get("source")
        if source is None:
            raise ConfigError(f"The card of {checkpoint} names no embedder. Give one (embedder=).")
        chosen, where = dtype or card.embedder.get("dtype") or "float32", f"embedder {source!r}"
        identity = EmbedderIdentity.of(source, chosen)
        check_binding(card, identity, where, any_dtype=dtype is not None)
        loaded = build_embedder(source, device, chosen)
        now = EmbedderIdentity.of(source, chosen)
        if now != identity:  # files were downloaded just now
            check_binding(card, now, where, any_dtype=dtype is not None)
        return cls(loaded, scorer.to(device))

    def __call__(self, images: Sequence[bytes | RGB]) -> ScorerOutput:
        """Score images as one batch.

        Args:
            images: one or more encoded files, or pixels as uint8 (height, width, 3), RGB.

        Returns:
            Float32 tensors on the scorer's device, in the order of the images.

        Raises:
            ImageError: an image that cannot be scored.
        """
        return self.score_views(*make_views(images, self.embedder.image_size))

    @torch.inference_mode()
    @exact_float32()
    def score_views(self, quality: Tensor, semantic: Tensor) -> ScorerOutput:
        """Score images whose views were made before, as one batch.

        Args:
            quality, semantic: views as `make_views` returns them, on any device.

        Returns:
            Float32 tensors on the scorer's device, in the order of the images.
        """
        embeddings = self.embedder(semantic)
        quality = quality.to(embeddings["semantic"].device)
        return self.scorer(quality, embeddings["semantic"], embeddings["coherence"])

    @exact_float32()
    def scores_from_pixels(self, pixels: Tensor) -> Tensor:
        """Score float pixels, differentiably with respect to them.

        For training that back-propagates through the score. The views are not rounded to whole
        gray levels (`images.tensor_views`), which moves the demo model's scores of the example
        images by up to 0.08 on the scale of 0 to 5.

        Args:
            pixels: RGB in 0-1, float (B, 3, height, width), on the networks' device. What
                overshoots by up to 0.5 is clipped. There is no gradient through fp8 weights.

        Returns:
            Predicted MOS, (B,).

        Raises:
            InvalidImageError: pixels of another range, such as -1 to 1 or 0 to 255.
        """
        low, high = (float(end) for end in pixels.detach().aminmax())
        if not -0.5 <= low <= high <= 1.5:
            raise InvalidImageError(
                f"The pixels run from {low:.3g} to {high:.3g}; expected 0 to 1. Scale them, as "
                "in (pixels + 1) / 2 or pixels / 255."
            )
        embeddings = self.embedder.embed_pixels(semantic_pixels(pixels, self.embedder.image_size))
        quality = 255 * quality_pixels(pixels).permute(0, 2, 3, 1)  # (B, 224, 224, 3)
        return self.scorer(quality, embeddings["semantic"], embeddings["coherence"]).score[:, 0]


def make_views(images: Sequence[bytes | RGB], semantic_size: int) -> tuple[Tensor, Tensor]:
    """Make the two networks' views of images.

    Args:
        images: one or more encoded files, or pixels as uint8 (height, width, 3), RGB.
        semantic_size: side of the semantic view in pixels.

    Returns:
        Quality views (B, 224, 224, 3) and semantic views (B, semantic_size, semantic_size, 3),
        uint8, RGB.

    Raises:
        ImageError: an image that cannot be scored, or none.
    """
    if not images:
        raise InvalidImageError("There is no image to score (0 were given). Give at least one.")
    pixels = [_pixels(image) for image in images]
    quality = np.stack([quality_view(rgb) for rgb in pixels])
    semantic = np.stack([semantic_view(rgb, semantic_size) for rgb in pixels])
    return torch.from_numpy(quality), torch.from_numpy(semantic)


def require_width(scorer: MAAGIQA | CalibratedScorer, width: int) -> None:
    """Refuse a scorer that takes embeddings of another width.

    Args:
        scorer: the network.
        width: width of the embedder's embeddings.

    Raises:
        ConfigError: the widths differ.
    """
    if scorer.config.semantic_dim != width:
        raise ConfigError(
            f"The scorer takes embeddings of width {scorer.config.semantic_dim}, but the embedder "
            f"makes them {width} wide. Give the embedder that the scorer was trained with."
        )


def _pixels(image: bytes | RGB) -> RGB:
    if not isinstance(image, np.ndarray):
        return decode(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InvalidImageError(
            f"The pixels are {image.dtype} {image.shape}; expected uint8 (height, width, 3), RGB."
        )
    return image
