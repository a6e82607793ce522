"""The order in which the scores of many images are given. Without any input or output."""

from collections.abc import Iterable

from ma_agiqa_client.score import Score

__all__ = ["Sequencer", "best_first", "order"]


class Sequencer:
    """Holds scores back until those before them are there, if the order is to be kept."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._early: dict[int, Score] = {}
        self._next = 0

    def add(self, score: Score) -> list[Score]:
        """Take a score, whose `index` is set; give those whose turn it is."""
        if not self._ordered or score.index is None:
            return [score]
        self._early[score.index] = score
        ready = []
        while self._next in self._early:
            ready.append(self._early.pop(self._next))
            self._next += 1
        return ready


def order(mos: float | None) -> tuple[bool, float]:
    """Sort key: higher MOS first, images without a score last."""
    return (mos is None, -(mos or 0.0))


def best_first(scores: Iterable[Score], top: int | None) -> list[Score]:
    """Sort by falling MOS; images without a score come last, in their own order.

    Raises:
        ClientError: no image has a score; the error is the first one's.
        ValueError: `top` is below 1.
    """
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; expected at least 1, or None for all.")
    ranked = sorted(scores, key=lambda s: (order(s.mos), s.index or 0))
    if ranked and ranked[0].error:
        raise ranked[0].error
    return ranked[:top]
