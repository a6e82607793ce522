"""The order in which the outcomes of many images are returned. Does no input or output."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.comparison import require_one_model
from ma_agiqa_client.score import Failure, Score


class Sequencer:
    """Holds outcomes back until those before them have arrived, if the order is to be kept."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._early: dict[int, Score | Failure] = {}
        self._next = 0

    def add(self, outcome: Score | Failure) -> list[Score | Failure]:
        """Take an outcome whose `index` is set; return those whose turn it is."""
        if not self._ordered or outcome.index is None:
            return [outcome]
        self._early[outcome.index] = outcome
        ready = []
        while self._next in self._early:
            ready.append(self._early.pop(self._next))
            self._next += 1
        return ready


def order(mos: float | None) -> tuple[bool, float]:
    """Sort key: higher MOS first, images without a score last."""
    return (mos is None, -(mos or 0.0))


def best_first(
    outcomes: Iterable[Score | Failure], top: int | None, card: ModelCard | None = None
) -> list[Score | Failure]:
    """Sort by falling MOS; failures come last, in their original order.

    With the card of a calibrated model every score gets its lead over the next one.

    Raises:
        ClientError: no image has a score; the error is that of the first image.
        WrongModelError: the scores are of models with other weights.
        ValueError: `top` is below 1.
    """
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; expected at least 1, or None for all.")
    ranked = sorted(outcomes, key=_rank)
    if ranked and ranked[0].error:
        raise ranked[0].error
    require_one_model(ranked)
    if card is not None and (calibration := card.calibration) is not None:
        shown = ranked if top is None else ranked[: top + 1]
        for place, (one, following) in enumerate(pairwise(shown)):
            if isinstance(one, Score) and isinstance(following, Score):
                ranked[place] = replace(one, lead=calibration.lead(one, following))
    return ranked[:top]


def _rank(outcome: Score | Failure) -> tuple[tuple[bool, float], int]:
    return order(None if outcome.error else outcome.mos), outcome.index or 0
