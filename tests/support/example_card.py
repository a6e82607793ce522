"""A model card for tests: the parameters that a server sends, and the card that they make."""

import json

from ma_agiqa_client import ModelCard

PARAMETERS = {
    "name": "tiny",
    "preset": "demo",
    "dataset": "synthetic",
    "mos_min": "0",
    "mos_max": "100",
    "metrics": json.dumps({"srcc": 0.9, "split": "test"}),
    "mos_quantiles": json.dumps([float(percent) for percent in range(101)]),
    "checkpoint_sha256": "0" * 64,
    "created": "2025-01-31T12:00:00Z",
    "gate_activation": "none",
    "note": "The demo model.",
}

ALIGNMENT = json.dumps({"question": 'Is it "{prompt}"?', "answer": "Yes", "against": None})
"""The parameter of a server that compares images with prompts."""

CARD = ModelCard.from_parameters(PARAMETERS)
