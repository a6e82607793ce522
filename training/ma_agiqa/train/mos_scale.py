"""The scale of the ratings, and that on which a network learns.

With the paper's recipe (Adam, learning rate 1e-5, random first weights) a network would take most
of its epochs to reach the size of scores of 0 to 100. It therefore learns on 0 to 5, the scale of
the paper's data, whatever the scale of the ratings, and the difference ends up in the last layer of
the trained scorer, which gives MOS. On ratings of 0 to 5 nothing changes, not by a bit.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ma_agiqa.networks.initialization import last_linear
from ma_agiqa.networks.scorer import MAAGIQA

_LEARNED = 5.0  # the top of the scale of a network that learns

_Number = TypeVar("_Number", float, Tensor)


@dataclass(frozen=True)
class MosScale:
    """A linear map between MOS in low..high and 0..5."""

    low: float
    high: float

    @property
    def _factor(self) -> float:
        return (self.high - self.low) / _LEARNED

    def learned(self, mos: _Number) -> _Number:
        """Map MOS to what the network learns."""
        return (mos - self.low) / self._factor

    def mos(self, learned: _Number) -> _Number:
        """Map what the network learns to MOS."""
        return learned * self._factor + self.low

    @torch.no_grad()
    def put_into(self, scorer: MAAGIQA) -> None:
        """Make a scorer that has learned give MOS: its last layer is changed."""
        if (self.low, self.high) != (0.0, _LEARNED):
            last = last_linear(scorer.fusion.regression)
            last.weight.mul_(self._factor)
            last.bias.mul_(self._factor).add_(self.low)

    @torch.no_grad()
    def take_out_of(self, scorer: MAAGIQA) -> None:
        """Undo `put_into`, to train a scorer further."""
        if (self.low, self.high) != (0.0, _LEARNED):
            last = last_linear(scorer.fusion.regression)
            last.bias.sub_(self.low).div_(self._factor)
            last.weight.div_(self._factor)
