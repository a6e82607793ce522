"""What a score is worth: an interval around it, and how familiar the picture is.

    pooled tokens of the backbone -> distance to the training pictures -> FAMILIARITY
    distance, score, gate, spread of the patch scores -> deviation     -> INTERVAL

Nothing here changes a score. The numbers are fitted by `train.calibrate` on the validation part of
a trained scorer; a scorer without them gives neither.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ma_agiqa.networks.exact_loading import check_names
from ma_agiqa.networks.scorer import MAAGIQA, ScorerOutput

DIFFICULTY = 7
"""Number of facts about a score from which its deviation is predicted, see `difficulty`."""


class CalibratedOutput(NamedTuple):
    """The scorer's outputs and what they are worth; all float32.

    Attributes:
        score, gate, patch_score, patch_weight: as in `scorer.ScorerOutput`.
        interval: low and high end around the score, (B, 2); the MOS of a picture like those of the
            training is between them with the probability that the calibration states. The ends may
            lie beyond the scale.
        familiarity: (B, 1), in 0-1: the share of the held-out pictures that are at least as far
            from the training pictures.
    """

    score: Tensor
    gate: Tensor
    patch_score: Tensor
    patch_weight: Tensor
    interval: Tensor
    familiarity: Tensor


class Calibration(nn.Module):
    """Intervals and familiarity from fitted numbers; TorchScript-able.

    A distance is the mean distance to the `nearest` pictures of a bank, where pooled tokens are
    centered and projected onto axes of equal variance. A bank of many pictures gives nearest
    neighbors, one of nothing but the center Mahalanobis' distance.

    Args:
        numbers: the buffers by name:
            center (F,), axes (F, K): the projection of the pooled tokens.
            bank (M, K): what distances are measured to.
            distances (Q,): quantiles of the distances of held-out pictures, ascending.
            lowest, highest (7,): range of `difficulty` on these pictures; values beyond are
                clipped.
            slopes (7,), offset (1,): the logarithm of the deviation is difficulty @ slopes +
                offset.
            reach (1,): half the width of an interval in deviations.
        nearest: number of neighbors.

    Raises:
        CheckpointError: a buffer is missing, left over or of another shape.
    """

    center: Tensor
    axes: Tensor
    bank: Tensor
    distances: Tensor
    lowest: Tensor
    highest: Tensor
    slopes: Tensor
    offset: Tensor
    reach: Tensor

    def __init__(self, numbers: Mapping[str, Tensor], nearest: int) -> None:
        super().__init__()
        tokens, width = numbers["axes"].shape if "axes" in numbers else (0, 0)
        shapes = {
            "center": (tokens,),
            "axes": (tokens, width),
            "bank": (len(numbers.get("bank", ())), width),
            "distances": (len(numbers.get("distances", ())),),
            **dict.fromkeys(("lowest", "highest", "slopes"), (DIFFICULTY,)),
            **dict.fromkeys(("offset", "reach"), (1,)),
        }
        given = {name: value.shape for name, value in numbers.items()}
        check_names({name: torch.Size(shape) for name, shape in shapes.items()}, given)
        for name in shapes:
            self.register_buffer(name, numbers[name].float())
        self.nearest = nearest

    def distance(self, description: Tensor) -> Tensor:
        """Measure how far pooled tokens (B, F) are from the training pictures, (B,)."""
        places = (description - self.center) @ self.axes
        squares = (
            places.square().sum(1, keepdim=True)
            + self.bank.square().sum(1)
            - 2 * places @ self.bank.T
        )
        nearest = squares.topk(self.nearest, dim=1, largest=False)[0]
        return nearest.clamp(min=0).sqrt().mean(1)

    def deviation(self, output: ScorerOutput, distance: Tensor) -> Tensor:
        """Predict the standard deviation of people's MOS around each score, (B, 1), in MOS."""
        facts = difficulty(output, distance)
        facts = torch.minimum(torch.maximum(facts, self.lowest), self.highest)
        return (facts @ self.slopes + self.offset).exp().unsqueeze(1)

    def familiarity(self, distance: Tensor) -> Tensor:
        """Share of the held-out pictures that are at least as far, (B, 1); linear in between."""
        low, high = self.distances[:-1], self.distances[1:]
        beyond = (high - distance.unsqueeze(1)) / (high - low).clamp(min=1e-6)
        return beyond.clamp(0, 1).mean(1, keepdim=True)

    def forward(self, output: ScorerOutput, description: Tensor) -> CalibratedOutput:
        """Add interval and familiarity to the outputs of a batch."""
        distance = self.distance(description)
        reach = self.reach * self.deviation(output, distance)
        interval = torch.cat([output.score - reach, output.score + reach], dim=1)
        return CalibratedOutput(*output, interval, self.familiarity(distance))


class UncalibratedScorer(nn.Module):
    """A scorer with the outputs of a calibrated one, of which the last two are NaN.

    It can be served next to versions that are calibrated: all have the same outputs.

    Args:
        scorer: the network, exact or accelerated.
    """

    def __init__(self, scorer: MAAGIQA) -> None:
        super().__init__()
        self.config, self.scorer = scorer.config, scorer

    def forward(
        self, quality_view: Tensor, semantic: Tensor, coherence: Tensor
    ) -> CalibratedOutput:
        """Score a batch; as `scorer.MAAGIQA.forward`."""
        output: ScorerOutput = self.scorer(quality_view, semantic, coherence)
        nothing = torch.full_like(output.gate[:, :2], float("nan"))
        return CalibratedOutput(*output, nothing, nothing[:, :1])


class CalibratedScorer(nn.Module):
    """A scorer that also says what its scores are worth; TorchScript-able.

    Args:
        scorer: the network, exact or accelerated.
        calibration: the calibration of its weights.
    """

    def __init__(self, scorer: MAAGIQA, calibration: Calibration) -> None:
        super().__init__()
        self.config = scorer.config
        self.scorer, self.calibration = scorer, calibration

    def forward(
        self, quality_view: Tensor, semantic: Tensor, coherence: Tensor
    ) -> CalibratedOutput:
        """Score a batch; as `scorer.MAAGIQA.forward`."""
        output, description = self.scorer.score_and_describe(quality_view, semantic, coherence)
        return self.calibration(output, description)


def difficulty(output: ScorerOutput, distance: Tensor) -> Tensor:
    """Facts that come with a score and tell how far it may be off.

    Args:
        output: of a batch.
        distance: to the training pictures, (B,).

    Returns:
        (B, 7): the logarithm of the distance, the score and its square, the logarithm of the spread
        of the patch scores (standard deviation, by weight), and the gate.
    """
    least = 1e-4  # before a logarithm
    weight = output.patch_weight.flatten(1) + least
    weight = weight / weight.sum(1, keepdim=True)
    patches = output.patch_score.flatten(1)
    mean = (weight * patches).sum(1, keepdim=True)
    spread = (weight * (patches - mean).square()).sum(1, keepdim=True).sqrt()
    return torch.cat(
        [
            (distance.unsqueeze(1) + least).log(),
            output.score,
            output.score.square(),
            (spread + least).log(),
            output.gate,
        ],
        dim=1,
    )
