"""A model card for tests that need no server."""

from ma_agiqa_client import ModelCard

CARD = ModelCard(
    name="tiny",
    preset="demo",
    dataset="synthetic",
    mos_min=0.0,
    mos_max=100.0,
    metrics={"srcc": 0.9, "split": "test"},
    mos_quantiles=tuple(float(percent) for percent in range(101)),
    checkpoint_sha256="0" * 64,
    created="2025-01-31T12:00:00Z",
    gate_activation="none",
    note="The demo model.",
)
