"""Scores of a trained scorer for samples whose features are there."""

import sys
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ma_agiqa.data.features import ScorerDataset
from ma_agiqa.networks.calibration import CalibratedOutput, CalibratedScorer
from ma_agiqa.networks.precision import exact_float32
from ma_agiqa.networks.scorer import MAAGIQA

INPUTS = ("quality_view", "semantic", "coherence")
"""What a scorer takes, by the names of a sample."""


class Predicted(NamedTuple):
    """What a scorer gives for N samples.

    Attributes:
        scores: (N,).
        gates: weights of the gate, (N, 3), in `GATE_ORDER`.
        intervals: ends of the intervals, (N, 2); None if the scorer is not calibrated.
    """

    scores: NDArray[np.float64]
    gates: NDArray[np.float64]
    intervals: NDArray[np.float64] | None


@torch.inference_mode()
@exact_float32()
def predict(
    scorer: MAAGIQA | CalibratedScorer,
    samples: ScorerDataset,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> Predicted:
    """Score every sample, in order, in float32.

    Args:
        scorer: is moved to the device and set to evaluation mode; a calibrated one gives intervals.
        samples: samples without augmentation.
        batch_size: number of images at a time.
        device: by default the GPU if there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    scorer = scorer.to(device).eval()
    scores, gates, intervals = [], [], []
    loader = DataLoader(samples, batch_size)
    for batch in tqdm(loader, "scores", unit="batch", disable=not sys.stderr.isatty()):
        output = scorer(*(batch[name].to(device) for name in INPUTS))
        scores.append(output.score.squeeze(1).double().cpu().numpy())
        gates.append(output.gate.double().cpu().numpy())
        if isinstance(output, CalibratedOutput):
            intervals.append(output.interval.double().cpu().numpy())
    found = np.concatenate(intervals) if intervals else None
    return Predicted(np.concatenate(scores), np.concatenate(gates), found)
