"""First weights for a scorer that is trained from nothing.

With random first weights every patch's quality enters the score with a random sign, and the score
starts far from every MOS; a pretrained backbone gets over that, a small one with little data takes
most of its epochs for it. `start_at_average` begins with a score that is the average over patches
of score times weight (Eq. 2), scaled to the average MOS, and with transposed attention that changes
little.
"""

import torch
from torch import nn

from ma_agiqa.errors import ConfigError
from ma_agiqa.maniqa import TransposedAttention
from ma_agiqa.scorer import MAAGIQA

__all__ = ["start_at_average"]

_PATCH_SCORE, _PATCH_WEIGHT, _GATE = 1.0, 0.5, 0.5  # what the heads and the gate then begin with
_ATTENTION_SHARE = 0.1


@torch.no_grad()
def start_at_average(scorer: MAAGIQA, mos: float) -> None:
    """Change a freshly made scorer's weights in place.

    Args:
        scorer: with the fusion "moe", and quality among its inputs.
        mos: the average MOS of the train part.

    Raises:
        ConfigError: another fusion or no quality input.
    """
    fusion = scorer.fusion
    if fusion.gate is None or fusion.quality is None:
        raise ConfigError(
            "optimisation.start is 'average', which needs fusion 'moe' and the input 'quality'."
        )
    size = fusion.quality.out_features
    fusion.quality.weight.copy_(torch.eye(size))
    fusion.quality.bias.zero_()
    fusion.regression.weight.fill_(mos / (_PATCH_SCORE * _PATCH_WEIGHT * _GATE * size))
    fusion.regression.bias.zero_()
    last = [layer for layer in scorer.maniqa.score_head if isinstance(layer, nn.Linear)][-1]
    last.bias.fill_(_PATCH_SCORE)
    for module in scorer.modules():
        if isinstance(module, TransposedAttention):
            module.value.weight.mul_(_ATTENTION_SHARE)
            module.value.bias.mul_(_ATTENTION_SHARE)
