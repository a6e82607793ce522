"""Scorers on disk: the folders that training writes, and the authors' `.pt` files.

scorer, card = load_scorer("runs/my_model")      # or "AGIQA_3k.pt"
"""

import os
from pathlib import Path

from ma_agiqa.checkpoints.card import ModelCard, official_card
from ma_agiqa.checkpoints.folder import (
    WEIGHTS,
    load_calibration,
    load_folder,
    save_calibration,
    save_checkpoint,
    save_metrics,
)
from ma_agiqa.checkpoints.official import load_official
from ma_agiqa.errors import CheckpointError
from ma_agiqa.files import sha256
from ma_agiqa.networks.scorer import MAAGIQA

__all__ = [
    "ModelCard",
    "checkpoint_sha256",
    "load_calibration",
    "load_scorer",
    "save_calibration",
    "save_checkpoint",
    "save_metrics",
]


def load_scorer(path: str | os.PathLike[str]) -> tuple[MAAGIQA, ModelCard]:
    """Read a checkpoint folder that training wrote, or a `.pt` file of the authors' code.

    Returns:
        The scorer in evaluation mode, on the CPU, and its card. The card of a `.pt` file is that of
        the authors' AGIQA-3k checkpoint, without metrics.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the settings;
            the message lists the names.
    """
    if not Path(path).exists():
        raise CheckpointError(
            f"There is no checkpoint at {path}. Give the folder that `python -m ma_agiqa train` "
            "wrote, or a .pt file of the authors."
        )
    if Path(path).is_dir():
        return load_folder(path)
    return load_official(path), official_card()


def checkpoint_sha256(path: str | os.PathLike[str]) -> str:
    """Hash the weights of a checkpoint folder or `.pt` file; 64 hexadecimal digits."""
    path = Path(path)
    return sha256(path / WEIGHTS if path.is_dir() else path)
