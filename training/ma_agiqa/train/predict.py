"""Scores of a trained scorer for samples whose features are there."""

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ma_agiqa.data.features import ScorerDataset
from ma_agiqa.networks.scorer import MAAGIQA

INPUTS = ("quality_view", "semantic", "coherence")
"""What a scorer takes, by the names of a sample."""


@torch.inference_mode()
def predict(
    scorer: MAAGIQA,
    samples: ScorerDataset,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score every sample, in order, in float32.

    Args:
        scorer: is moved to the device and set to evaluation mode.
        samples: samples without augmentation.
        batch_size: number of images at a time.
        device: by default the GPU if there is one.

    Returns:
        Scores (N,) and gate weights (N, 3) in `GATE_ORDER`.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    scorer = scorer.to(device).eval()
    scores, gates = [], []
    loader = DataLoader(samples, batch_size)
    for batch in tqdm(loader, "scores", unit="batch", disable=not sys.stderr.isatty()):
        output = scorer(*(batch[name].to(device) for name in INPUTS))
        scores.append(output.score.squeeze(1).double().cpu().numpy())
        gates.append(output.gate.double().cpu().numpy())
    return np.concatenate(scores), np.concatenate(gates)
