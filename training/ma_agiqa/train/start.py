"""The scorer with which a training begins."""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from ma_agiqa.checkpoints import ModelCard, load_scorer
from ma_agiqa.checkpoints.folder import SPLIT
from ma_agiqa.data import RatedImage, Split, SplitSettings, make_split
from ma_agiqa.data.splits import read_parts
from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.initialization import start_at_average
from ma_agiqa.networks.maniqa import NO_WEIGHTS
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig
from ma_agiqa.settings import differences, to_mapping
from ma_agiqa.train.config import TrainingConfig
from ma_agiqa.train.mos_scale import MosScale

_logger = logging.getLogger(__name__)

_FREE = {"dropout", "drop_path", "drop_path_schedule"}  # they matter in training only


def first_scorer(config: TrainingConfig, split: Split) -> MAAGIQA:
    """Make the scorer of a run: from scratch, or from the checkpoint that `init_from` names.

    Args:
        config: settings of the run; its seed decides random weights.
        split: the average MOS of its train part is where `optimization.start: average` begins.

    Returns:
        The scorer on the CPU, whose scores are on the scale that `MosScale` learns on.

    Raises:
        ConfigError: weights that cannot be had, a checkpoint of another scorer, or a name in
            `optimization.frozen` that no parameter has.
        CheckpointError: the checkpoint cannot be read.
    """
    set_seed(config.seed)
    scorer = MAAGIQA(
        config.scorer_config(), NO_WEIGHTS if config.init_from else config.backbone_weights
    )
    if config.init_from:
        trained, card = load_scorer(config.init_from)
        require_same_scorer(scorer.config, trained.config, config.init_from)
        scorer.load_state_dict(trained.state_dict())
        MosScale(card.mos_min, card.mos_max).take_out_of(scorer)
        _warn_of_seen_images(config, card, split)
    elif config.optimization.start == "average":
        mos = float(np.mean([image.mos for image in split.train]))
        start_at_average(scorer, MosScale(*config.data.mos_range).learned(mos))
    freeze(scorer, config.optimization.frozen)
    return scorer


def freeze(scorer: MAAGIQA, beginnings: Sequence[str]) -> None:
    """Keep parameters from being trained.

    Args:
        scorer: is changed.
        beginnings: beginnings of the parameters' names.

    Raises:
        ConfigError: a beginning that no parameter's name has.
    """
    for beginning in beginnings:
        found = [p for name, p in scorer.named_parameters() if name.startswith(beginning)]
        if not found:
            raise ConfigError(
                f"optimization.frozen: no parameter's name begins with {beginning!r}."
            )
        for parameter in found:
            parameter.requires_grad_(False)


def require_same_scorer(wanted: MAAGIQAConfig, found: MAAGIQAConfig, checkpoint: str) -> None:
    """Refuse to train a checkpoint's scorer further as another network.

    Raises:
        ConfigError: sizes or choices differ; it names the settings.
    """
    names = {wanted.backbone.split(".")[0], found.backbone.split(".")[0]}  # a tag names weights
    if len(names) == 1:
        wanted = dataclasses.replace(wanted, backbone=found.backbone)
    ours, theirs = to_mapping(wanted), to_mapping(found)
    if different := sorted(set(differences(ours, theirs)) - _FREE):
        values = {name: theirs.get(name.split(".")[0]) for name in different}
        listed = ", ".join(f"scorer.{name} is {value!r}" for name, value in values.items())
        raise ConfigError(
            f"init_from: the scorer in {checkpoint} is another than the config's: there "
            f"{listed}. Set these so, or train from scratch."
        )


def meta_scorer(config: TrainingConfig) -> MAAGIQA:
    """The scorer of a run without values, to check its settings in no time."""
    with torch.device("meta"):
        scorer = MAAGIQA(config.scorer_config())
    freeze(scorer, config.optimization.frozen)
    return scorer


def _warn_of_seen_images(config: TrainingConfig, card: ModelCard, split: Split) -> None:
    images = [image for _, part in split.items() for image in part]
    seen = images_seen(str(config.init_from), card, config.data.name, images)
    if known := sum(image.name in seen for image in split.test):
        _logger.warning(
            "%d of %d test images were in the train or validation part of %s: the numbers of the "
            "test part will be too good.",
            known,
            len(split.test),
            config.init_from,
        )


def images_seen(
    checkpoint: str | Path, card: ModelCard, dataset: str, images: Iterable[RatedImage]
) -> set[str]:
    """Names of the images that a checkpoint was trained or chosen on.

    For the authors' AGIQA-3k checkpoint these are the train and validation parts of their split.

    Args:
        checkpoint: as `load_scorer` takes it.
        card: its card.
        dataset: name of the data set; with another one than the card's no image is known.
        images: all images of the data set.
    """
    if card.dataset != dataset:
        return set()
    if Path(checkpoint).is_dir():
        file = Path(checkpoint) / SPLIT
        part_of = read_parts(file) if file.is_file() else {}
    else:
        part_of = dict(make_split(list(images), SplitSettings("paper")).rows())
    return {name for name, part in part_of.items() if part in ("train", "validation")}
