"""Stands in for `ma_agiqa.pipeline.ImageScorer` until that is here; then this file goes."""

from collections.abc import Sequence

import numpy as np
import torch

from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.networks.scorer import MAAGIQA, ScorerOutput


class ImageScorer:
    def __init__(self, embedder, scorer: MAAGIQA) -> None:
        self.embedder, self.scorer = embedder, scorer.eval().requires_grad_(False)

    @classmethod
    def load(
        cls, checkpoint: str, embedder: str | None = None, device="cpu", dtype: str = "float32"
    ) -> "ImageScorer":
        scorer, card = load_scorer(checkpoint)
        source = embedder or card.embedder["source"]
        return cls(build_embedder(source, torch.device(device), dtype), scorer.to(device))

    @torch.inference_mode()
    def __call__(self, images: Sequence[bytes | np.ndarray]) -> ScorerOutput:
        pixels = [image if isinstance(image, np.ndarray) else decode(image) for image in images]
        device = next(self.scorer.parameters()).device
        side = self.embedder.image_size
        semantic = np.stack([semantic_view(rgb, side) for rgb in pixels])
        quality = torch.from_numpy(np.stack([quality_view(rgb) for rgb in pixels])).to(device)
        found = self.embedder(torch.from_numpy(semantic).to(device))
        return self.scorer(quality, found["semantic"], found["coherence"])
