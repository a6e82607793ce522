"""Write a model repository of random weights, to measure serving without real weights.

Random weights compute as fast as trained ones. Their scores mean nothing, and the card says so.
"""

from pathlib import Path

import torch

from exporter.commands import DEMO_CHECKPOINT
from exporter.new_version import NewVersion, Source
from ma_agiqa.benchmark.random_weights import write_random_weights
from ma_agiqa.benchmark.scorer import random_scorer
from ma_agiqa.checkpoints import ModelCard, load_scorer, save_checkpoint
from ma_agiqa.checkpoints.card import official_card, utc_now
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config
from ma_agiqa.lmm.sources import DEMO_EMBEDDER
from ma_agiqa.networks.scorer import MAAGIQAConfig

NOTE = "Random weights, to measure speed. The scores mean nothing."


def write_random(preset: str, gpu: bool, dtype: str, output: Path) -> None:
    """Write repository/, checkpoint/ and, for the paper's preset, weights/ into a folder."""
    config = MAAGIQAConfig() if preset == "paper" else load_scorer(DEMO_CHECKPOINT)[0].config
    embedder = DEMO_EMBEDDER
    if preset == "paper":
        weights = output / "weights"
        embedder = str(weights.resolve())
        if not (weights / "config.json").exists():
            write_random_weights(MPlugOwl2Config(), weights, getattr(torch, dtype))
    scorer, card = random_scorer(config, torch.device("cpu")), _card(preset, embedder)
    save_checkpoint(output / "checkpoint", scorer, card)
    source = Source(scorer, card, "0" * 64)
    identity = EmbedderIdentity.of(embedder, dtype)
    NewVersion(source, output / "repository", identity, gpu).publish()


def _card(preset: str, embedder: str) -> ModelCard:
    return ModelCard(
        name=f"random-{preset}",
        preset=preset,
        dataset="none",
        mos_min=0.0,
        mos_max=5.0,
        mos_quantiles=official_card().mos_quantiles,
        created=utc_now(),
        note=NOTE,
        embedder={"source": embedder},
    )
