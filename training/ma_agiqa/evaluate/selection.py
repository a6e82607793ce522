"""Which images an evaluation scores, and their scores by a checkpoint in this process."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ma_agiqa.checkpoints import ModelCard
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity, check_binding
from ma_agiqa.checkpoints.folder import SPLIT
from ma_agiqa.data import RatedImage, Split, make_split, read_images, split_from_file
from ma_agiqa.data.features import ScorerDataset, ensure_features
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.evaluate.predictions import build_predictions
from ma_agiqa.networks.calibration import CalibratedScorer
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.train.config import TrainingConfig, build_config
from ma_agiqa.train.predict import predict
from ma_agiqa.train.start import images_seen

ALL_PARTS = "all"
"""Name for the images of all parts."""


@dataclass(frozen=True)
class Selection:
    """The images of one part of a data set.

    Attributes:
        config: names the data set and its features.
        members: images to score, in order.
        part: one of PARTS, or ALL_PARTS.
        notes: sentences that a reader of the result must know.
    """

    config: TrainingConfig
    members: tuple[RatedImage, ...]
    part: str
    notes: tuple[str, ...] = ()


def saved_run(
    folder: Path, card: ModelCard, overrides: Mapping[str, str]
) -> tuple[TrainingConfig, tuple[RatedImage, ...], Split]:
    """Read the data set and the split that a checkpoint was trained with.

    Args:
        folder: folder of the checkpoint; its split.csv says which image is in which part.
        card: card of the checkpoint; it holds the run's settings.
        overrides: settings to change, as `train.config.build_config` takes them.

    Returns:
        The settings, the images, and their division.

    Raises:
        ConfigError: a setting that cannot be used, or a checkpoint without its settings.
        DataError: the table cannot be read, or no longer has the images of the run.
    """
    if changed := [name for name in overrides if name.partition(".")[0] == "split"]:
        raise ConfigError(
            f"--set {changed[0]} has no effect: the split is the one that was saved with the run "
            f"in {folder}. Name another with --config."
        )
    if "data" not in card.training:
        raise ConfigError(f"The card in {folder} names no data set; name one with --config.")
    config = build_config(card.training, f"the card in {folder}", overrides)
    images = read_images(config.data)
    try:
        return config, images, split_from_file(images, folder / SPLIT)
    except DataError as error:
        raise DataError(
            f"{error} The split was saved with the run in {folder}; give the table that the run "
            "used with --set data.csv=FILE, or a new data set with --config."
        ) from error


def select_saved(
    folder: Path, card: ModelCard, part: str, overrides: Mapping[str, str]
) -> Selection:
    """Choose a part of the data set and split that a checkpoint was trained with.

    Args:
        folder, card, overrides: as `saved_run` takes them.
        part: one of PARTS, or ALL_PARTS.

    Raises:
        ConfigError, DataError: as `saved_run`.
    """
    config, images, split = saved_run(folder, card, overrides)
    return _select(config, images, split, part)


def select_own(
    config: TrainingConfig, part: str, trained: tuple[Path, ModelCard] | None = None
) -> Selection:
    """Choose a part of a config's data set by the config's split.

    Args:
        config: names the data set and the split.
        part: one of PARTS, or ALL_PARTS.
        trained: a checkpoint and its card, if any. Images that it was trained on are counted in the
            notes.
    """
    images = read_images(config.data)
    selection = _select(config, images, make_split(images, config.split), part)
    if trained is None:
        return selection
    seen = images_seen(*trained, config.data.name, images)
    known = sum(image.name in seen for image in selection.members)
    if not known:
        return selection
    note = (
        f"{known:,} of the {len(selection.members):,} images were in the train or validation "
        f"part of {trained[0]}: its numbers are too good."
    )
    return replace(selection, notes=(note,))


def score_selection(
    scorer: MAAGIQA | CalibratedScorer,
    card: ModelCard,
    selection: Selection,
    batch_size: int = 32,
    device: str | None = None,
    any_dtype: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Score the images in this process; features that are missing are made first.

    Args:
        scorer, card: as `checkpoint.load_scorer` gives them, or with the calibration.
        selection: the images.
        batch_size: images at a time.
        device: by default the GPU if there is one.
        any_dtype: accept embeddings in another dtype than the scorer was trained with.
        progress: show a bar on stderr while features are made.

    Returns:
        Predictions with one row per image of the selection, in its order.

    Raises:
        ConfigError: the config's features come from another embedder than the scorer's.
        DataError: an image that cannot be read; names its row.
    """
    config, members = selection.config, selection.members
    source, settings, folder = config.embedder, config.features, config.feature_folder
    where = f"the config's embedder {source!r}"
    check_binding(card, EmbedderIdentity.of(source, settings.dtype), where, any_dtype)
    width = scorer.config.semantic_dim
    features = ensure_features(source, settings, folder, members, width, progress=progress)
    check_binding(card, features.store.identity, f"the features in {folder}", any_dtype)
    samples = ScorerDataset(features, range(len(members)), [image.mos for image in members])
    return build_predictions(members, *predict(scorer, samples, batch_size, device))


def _select(
    config: TrainingConfig, images: tuple[RatedImage, ...], split: Split, part: str
) -> Selection:
    members = images if part == ALL_PARTS else getattr(split, part)
    return Selection(config, members, part)
