"""What would keep a run from being finished, found before it costs hours."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity, check_binding
from ma_agiqa.checkpoints.folder import other_files
from ma_agiqa.data import RatedImage, Split, SplitSettings
from ma_agiqa.data.table import listed
from ma_agiqa.errors import ConfigError, MAAGIQAError
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, embedder_config
from ma_agiqa.metrics.agreement import MIN_SAMPLES
from ma_agiqa.networks.convolutional import PACKAGED, packaged_weights
from ma_agiqa.networks.maniqa import NO_WEIGHTS, PRETRAINED
from ma_agiqa.train.config import Optimization, TrainingConfig
from ma_agiqa.train.start import meta_scorer, require_same_scorer


def require_feasible(config: TrainingConfig, split: Split) -> None:
    """Refuse a run that cannot be finished.

    Raises:
        ConfigError: every obstacle, see `obstacles`.
    """
    if found := list(obstacles(config, split)):
        raise ConfigError(f"This run could not be finished: {listed(found)}")


def obstacles(config: TrainingConfig, split: Split) -> Iterator[str]:
    """Sentences that say what stands in the way of a run, each with the setting to change.

    Args:
        config: settings of the run.
        split: its images.
    """
    yield from part_obstacles(config.split, config.optimization, split)
    if config.optimization.rank_weight and not _is_compared(split.train):
        yield (
            f"optimization.rank_weight is {config.optimization.rank_weight:g}, but no two images "
            "of the train part are compared: name a column under data.columns.compared or "
            "data.columns.group."
        )
    if others := other_files(config.output):
        yield (
            f"The checkpoint would replace {config.output}, which also holds "
            f"{', '.join(others[:3])}: name another folder with --output."
        )
    from_file = config.backbone_weights not in (PRETRAINED, NO_WEIGHTS, PACKAGED)
    if not config.init_from and from_file and not Path(config.backbone_weights).is_file():
        yield f"backbone_weights: there is no file {config.backbone_weights}."
    try:
        scorer = meta_scorer(config)
        if config.backbone_weights == PACKAGED and not config.init_from:
            packaged_weights(scorer.config.backbone)
        if config.init_from:
            trained, card = load_scorer(config.init_from)
            require_same_scorer(scorer.config, trained.config, config.init_from)
            identity = EmbedderIdentity.of(config.embedder, config.features.dtype)
            check_binding(card, identity, f"embedder {config.embedder!r}", any_dtype=True)
        if config.embedder == DEMO_EMBEDDER or Path(config.embedder).is_dir():
            width = embedder_config(config.embedder).hidden_size
            if scorer.config.semantic_dim != width:
                yield (
                    f"scorer.semantic_dim is {scorer.config.semantic_dim}, but the embeddings of "
                    f"{config.embedder!r} have {width} values; set it to {width}."
                )
    except MAAGIQAError as error:
        yield str(error)


def _is_compared(images: Sequence[RatedImage]) -> bool:
    """Whether a ranking loss has at least one pair of images whose order is known."""
    rated = {(image.compared, image.mos) for image in images}
    return len(rated) > len({compared for compared, _ in rated})


def part_obstacles(
    settings: SplitSettings, optimization: Optimization, split: Split
) -> Iterator[str]:
    """What stands in the way of training on a split, and of measuring its parts."""
    for part, images in split.items():
        count, setting = len(images), settings.setting_of(part)
        if part == "train":
            if count < optimization.batch_size:
                yield (
                    f"The train part has {count} images, fewer than one step takes: lower "
                    f"optimization.batch_size ({optimization.batch_size}), or {setting}."
                )
        elif count < MIN_SAMPLES:
            yield (
                f"The {part} part has {count} images; its metrics need {MIN_SAMPLES} or more. "
                f"Change {setting}."
            )
        if count > 1 and len({image.mos for image in images}) == 1:
            yield (
                f"All {count} images of the {part} part have the MOS {images[0].mos:g}, with which "
                "nothing can be learned or measured. Check data.csv and data.columns.mos, or "
                f"change {setting}."
            )
