"""Which images an evaluation scores, and their scores by a checkpoint in this process."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ma_agiqa.checkpoints import ModelCard
from ma_agiqa.data import PARTS, RatedImage, Split, make_split, read_images, split_from_file
from ma_agiqa.data.features import FeatureStore, ScorerDataset, ensure_features, wanted_identity
from ma_agiqa.data.features.identity import differences
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.evaluate.predictions import build_predictions
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.settings import to_mapping
from ma_agiqa.train.config import TrainingConfig, build_config
from ma_agiqa.train.predict import predict

__all__ = ["ALL_PARTS", "Selection", "score_selection", "select_own", "select_saved"]

ALL_PARTS = "all"
"""Name for the images of all parts."""

_SPLIT = "split.csv"


@dataclass(frozen=True)
class Selection:
    """The images of one part of a data set.

    Attributes:
        config: of the data set and its features.
        images: all images of the table.
        members: those to score, in order.
        part: one of PARTS, or ALL_PARTS.
        notes: sentences that a reader of the result must know.
    """

    config: TrainingConfig
    images: tuple[RatedImage, ...]
    members: tuple[RatedImage, ...]
    part: str
    notes: tuple[str, ...] = ()


def select_saved(
    folder: Path, card: ModelCard, part: str, overrides: Mapping[str, str]
) -> Selection:
    """Choose a part of the data set and split that a checkpoint was trained with.

    Args:
        folder: of the checkpoint; its split.csv says which image is in which part.
        card: of the checkpoint; it holds the run's settings.
        part: one of PARTS, or ALL_PARTS.
        overrides: settings that are wanted otherwise, as `train.config.build_config` takes them.

    Raises:
        ConfigError: a setting that cannot be used, or a checkpoint without its settings.
        DataError: the table cannot be read, or has no longer the images of the run.
    """
    if "data" not in card.training:
        raise ConfigError(f"The card in {folder} names no data set; name one with --config.")
    config = build_config(card.training, f"the card in {folder}", overrides)
    images = read_images(config.data)
    try:
        split = split_from_file(images, folder / _SPLIT)
    except DataError as error:
        raise DataError(
            f"{error} The split was saved with the run in {folder}; give the table of that time "
            "with --set data.csv=FILE, or a new data set with --config."
        ) from error
    return _select(config, images, split, part)


def select_own(config: TrainingConfig, part: str, trained: Path | None = None) -> Selection:
    """Choose a part of a config's data set by the config's split.

    Args:
        config: of the data set.
        part: one of PARTS, or ALL_PARTS.
        trained: folder of a checkpoint trained on the same data set, if any. Images that it was
            trained on are counted in the notes.
    """
    images = read_images(config.data)
    selection = _select(config, images, make_split(images, config.split), part)
    if trained is None:
        return selection
    seen = _seen_in_training(trained)
    known = [image for image in selection.members if image.name in seen]
    if not known:
        return selection
    note = (
        f"{len(known):,} of the {len(selection.members):,} images were in the train or validation "
        f"part of {trained}: its numbers are too good."
    )
    return replace(selection, notes=(note,))


def score_selection(
    scorer: MAAGIQA,
    card: ModelCard,
    selection: Selection,
    batch_size: int = 32,
    device: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Score the images in this process; features that are missing are made first.

    Args:
        scorer, card: as `checkpoint.load_scorer` gives them.
        selection: the images.
        batch_size: images at a time.
        device: by default the GPU if there is one.
        progress: show a bar on stderr while features are made.

    Returns:
        Predictions with one row per image of the selection, in its order.

    Raises:
        ConfigError: the config's features come from another embedder than the scorer's.
        DataError: an image that cannot be read; names its row.
    """
    config = replace(selection.config, scorer=to_mapping(scorer.config))  # not the config's scorer
    _check_embedder(card, wanted_identity(config.embedder, config.features.dtype)["embedder"])
    # A new store gets a row for every image, as training needs it; a store that is there need not
    # be complete for the images that are not scored.
    complete = not FeatureStore.exists(config.feature_folder)
    images = selection.images if complete else selection.members
    features = ensure_features(config, images, progress)
    _check_embedder(card, features.identity)
    row_of = {image.name: row for row, image in enumerate(images)}
    samples = ScorerDataset(
        features,
        [row_of[image.name] for image in selection.members],
        [image.mos for image in selection.members],
    )
    return build_predictions(selection.members, *predict(scorer, samples, batch_size, device))


def _select(
    config: TrainingConfig, images: tuple[RatedImage, ...], split: Split, part: str
) -> Selection:
    members = images if part == ALL_PARTS else getattr(split, part)
    return Selection(config, images, members, part)


def _seen_in_training(folder: Path) -> set[str]:
    try:
        with open(folder / _SPLIT, newline="", encoding="utf-8") as file:
            return {row["image"] for row in csv.DictReader(file) if row["part"] in PARTS[:2]}
    except (OSError, KeyError, csv.Error) as error:
        raise DataError(f"Cannot read the split in {folder}: {error}.") from error


def _check_embedder(card: ModelCard, found: object) -> None:
    """Stop before a scorer is fed embeddings that it was not trained on."""
    different = differences(card.embedder, found) if card.embedder else []  # type: ignore[arg-type]
    if different:
        raise ConfigError(
            f"The scorer {card.name} was trained on the embeddings of another model than the "
            f"config names: {'; '.join(different)}. Change `embedder` and `features`, such as with "
            "--set embedder=NAME."
        )
