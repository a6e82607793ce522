"""Settings of a training run, as a YAML file in `training/configs/` gives them.

Paths are relative to the working directory. Every setting has one place; unknown names are errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ma_agiqa.datasets import Columns
from ma_agiqa.errors import ConfigError
from ma_agiqa.features import Augmentation
from ma_agiqa.scorer import MAAGIQAConfig
from ma_agiqa.settings import from_mapping, read_yaml
from ma_agiqa.synthetic import Recipe

__all__ = ["DataSettings", "Optimisation", "SplitSettings", "TrainingConfig", "load_config"]

SCHEDULES = ("constant", "cosine")
STARTS = ("random", "average")


@dataclass(frozen=True)
class DataSettings:
    """Where the rated images are.

    Attributes:
        name: of the data set, as the model card states it.
        csv: the table.
        image_folder: by default `images` beside the table.
        columns: names of the table's columns.
        mos_range: lowest and highest possible score.
        synthetic: the recipe of the synthetic set, which is then built where `csv` is missing.
    """

    name: str
    csv: str
    image_folder: str | None = None
    columns: Columns = field(default_factory=Columns)
    mos_range: tuple[float, float] = (0.0, 5.0)
    synthetic: Recipe | None = None


@dataclass(frozen=True)
class SplitSettings:
    """How images are divided: by group, see `datasets.split_by_group`."""

    seed: int
    validation: float = 0.1
    test: float = 0.2


@dataclass(frozen=True)
class Optimisation:
    """How the weights are found; the defaults are the paper's (§4.2).

    Attributes:
        epochs: passes over the train part.
        batch_size: images per step.
        learning_rate: of Adam, at its highest.
        weight_decay: L2 penalty inside Adam, as torch.optim.Adam adds it.
        schedule: "constant" (paper), or "cosine": down to 0 over the whole run.
        warmup_share: share of all steps in which the rate rises from 0.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        start: "random" (paper), or "average", see `start.start_at_average`.
        frozen: beginnings of names of parameters that keep their first values.
    """

    epochs: int = 30
    batch_size: int = 8
    learning_rate: float = 1e-5
    weight_decay: float = 1e-5
    schedule: str = "constant"
    warmup_share: float = 0.0
    max_grad_norm: float = 0.0
    start: str = "random"
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule is {self.schedule!r}; choose one of {SCHEDULES}.")
        if self.start not in STARTS:
            raise ConfigError(f"start is {self.start!r}; choose one of {STARTS}.")
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError(
                f"epochs {self.epochs}, batch_size {self.batch_size} and learning_rate "
                f"{self.learning_rate} must all be above 0."
            )


@dataclass(frozen=True)
class TrainingConfig:
    """One run.

    Attributes:
        name: of the model.
        preset: "demo" or "paper", as the model card states it.
        embedder: mPLUG-Owl2's weights, as `presets.build_embedder` takes them: "demo", a hub id
            or a folder.
        note: a sentence that every reader of a score should see; may be empty.
        output: folder of the checkpoint.
        cache: folder of the features; by default `features` beside the table.
        seed: of the scorer's weights, the order of the samples and the augmentation.
        scorer: settings of `MAAGIQAConfig`; the defaults are the paper's.
        data, split, optimisation, augmentation: see there.
    """

    name: str
    preset: str
    embedder: str
    output: str
    seed: int
    data: DataSettings
    split: SplitSettings
    note: str = ""
    cache: str | None = None
    scorer: Mapping[str, Any] = field(default_factory=dict)
    optimisation: Optimisation = field(default_factory=Optimisation)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def scorer_config(self) -> MAAGIQAConfig:
        """The scorer's settings.

        Raises:
            ConfigError: an unknown name among them.
        """
        return MAAGIQAConfig.from_dict(self.scorer)

    @property
    def feature_folder(self) -> Path:
        """Where the features are kept."""
        return Path(self.cache) if self.cache else Path(self.data.csv).parent / "features"


def load_config(path: str | Path) -> TrainingConfig:
    """Read and check a YAML file.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, missing or impossible.
    """
    config = from_mapping(TrainingConfig, read_yaml(path), Path(path).name)
    config.scorer_config()
    return config
