"""A model card as parameters of the ensemble's configuration, where clients read it."""

import json

from ma_agiqa.checkpoints import ModelCard
from ma_agiqa.checkpoints.card import utc_now


def card_parameters(
    card: ModelCard, gate_activation: str, sha256: str, version: int
) -> dict[str, str]:
    """Turn a card into the strings that the client reads.

    Args:
        card: the checkpoint's card.
        gate_activation: the last function of the gate.
        sha256: hash of the checkpoint's weights.
        version: number of the served version.
    """
    return {
        "name": card.name,
        "preset": card.preset,
        "dataset": card.dataset,
        "mos_min": repr(float(card.mos_min)),
        "mos_max": repr(float(card.mos_max)),
        "metrics": json.dumps(dict(card.metrics)),
        "mos_quantiles": json.dumps([round(float(q), 4) for q in card.mos_quantiles]),
        "checkpoint_sha256": sha256,
        "created": utc_now(),
        "gate_activation": gate_activation,
        "note": card.note,
        "version": str(version),
    }
