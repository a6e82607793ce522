"""Initial weights of a scorer that is trained from scratch.

With random initial weights every patch's quality enters the score with a random sign, and the score
starts far from every MOS. A pretrained backbone overcomes that quickly; a small one with little
data spends most of its epochs on it. `start_at_average` begins with a score that is the average
over patches of score times weight (Eq. 2), scaled to the average MOS, and with transposed attention
that changes little. Without quality among the inputs, the score begins near the average MOS.
"""

import torch
from torch import nn

from ma_agiqa.networks.fusion import AdaptiveFusion
from ma_agiqa.networks.maniqa import MANIQA, TransposedAttention
from ma_agiqa.networks.scorer import MAAGIQA

_PATCH_SCORE, _PATCH_WEIGHT, _GATE = 1.0, 0.5, 0.5  # first outputs of heads and sigmoid gate
_QUALITY = _PATCH_SCORE * _PATCH_WEIGHT
_ATTENTION_SHARE = 0.1


@torch.no_grad()
def start_at_average(scorer: MAAGIQA, mos: float) -> None:
    """Change the weights of a new scorer in place.

    Args:
        scorer: a scorer with any inputs and fusion.
        mos: average MOS of the train part.
    """
    if scorer.maniqa is not None:
        _start_patches(scorer.maniqa)
    if scorer.fusion.quality is None:
        last_linear(scorer.fusion.regression).bias.fill_(mos)
    else:
        _start_fusion(scorer.fusion, scorer.fusion.quality, mos)


def _start_patches(maniqa: MANIQA) -> None:
    """Let every patch begin with about the same positive score."""
    last_linear(maniqa.score_head).bias.fill_(_PATCH_SCORE)
    for module in maniqa.modules():
        if isinstance(module, TransposedAttention):
            module.value.weight.mul_(_ATTENTION_SHARE)
            module.value.bias.mul_(_ATTENTION_SHARE)


def _start_fusion(fusion: AdaptiveFusion, quality: nn.Linear, mos: float) -> None:
    """Let the score begin as the average quality of the patches, scaled to the average MOS."""
    size = quality.out_features
    quality.weight.copy_(torch.eye(size))
    quality.bias.zero_()
    last = last_linear(fusion.regression)
    last.bias.zero_()
    if fusion.gate is not None:
        last.weight.fill_(mos / (_QUALITY * _GATE * size))
    else:  # quality is the last of the concatenated features; average it into every hidden value
        hidden = next(m for m in fusion.regression.modules() if isinstance(m, nn.Linear))
        hidden.weight[:, -size:].fill_(1 / size)
        hidden.bias.zero_()
        last.weight.fill_(mos / (_QUALITY * hidden.out_features))


def last_linear(module: nn.Module) -> nn.Linear:
    """The last linear layer of a network or of a part of it."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
