"""Two images side by side: which of them people would rate higher, and how sure that is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import WrongModelError
from ma_agiqa_client.score import Failure, Score

__all__ = ["Comparison"]

DISTINCT = 0.75
"""Two images are told apart if one is better with at least this probability; else they tie."""


@dataclass(frozen=True)
class Comparison:
    """Two scored images.

    Attributes:
        a, b: their scores.
        probability: that people would rate `a` higher than `b`, 0-1.
    """

    a: Score
    b: Score
    probability: float

    @property
    def better(self) -> Literal["a", "b"] | None:
        """The image that people would rate higher; None for a tie."""
        if self.probability >= DISTINCT:
            return "a"
        return "b" if self.probability <= 1 - DISTINCT else None

    @property
    def is_tie(self) -> bool:
        """Whether the scores do not tell the images apart (see `DISTINCT`)."""
        return self.better is None


def require_one_model(outcomes: Iterable[Score | Failure]) -> None:
    """Check that scores may be compared.

    Raises:
        WrongModelError: they are of models with other weights.
    """
    if len({one.checkpoint_sha256 for one in outcomes if isinstance(one, Score)}) > 1:
        raise WrongModelError(
            "The server's model changed while it scored the images, and scores of two models "
            "cannot be compared. Score the images again."
        )


def compare(a: Score, b: Score, card: ModelCard) -> Comparison:
    """Compare two scores of one model.

    Raises:
        WrongModelError: they are of two models, or the model was not calibrated, so nothing is
            known about its errors.
    """
    require_one_model((a, b))
    if card.calibration is None or a.deviation is None or b.deviation is None:
        raise WrongModelError(
            f"The model {card.name} was not calibrated, so it is not known how far its scores may "
            "be off. Compare `mos`, or calibrate the checkpoint (`python -m ma_agiqa calibrate "
            "CHECKPOINT`) and export it again."
        )
    return Comparison(a, b, card.calibration.probability(a, b))
