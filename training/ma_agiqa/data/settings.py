"""The section `data` of a config: where the rated images are, and what their table means."""

import math
from dataclasses import asdict, dataclass, field

from ma_agiqa.data.table import Columns
from ma_agiqa.errors import ConfigError

MOST_DEGRADED = 7
"""Number of degradations that there are, see `data.synthetic.degradations`."""


@dataclass(frozen=True)
class Subset:
    """Images that an evaluation reports on their own; all conditions given must hold.

    Attributes:
        name: heading of its row.
        prompt_contains: text in the prompt; case does not matter.
        generator: generator of the image.
    """

    name: str
    prompt_contains: str | None = None
    generator: str | None = None

    def __post_init__(self) -> None:
        if self.prompt_contains is None and self.generator is None:
            raise ConfigError(
                f"data.subsets, {self.name!r}: give prompt_contains, generator or both."
            )

    def holds(self, prompt: str | None, generator: str | None) -> bool:
        """Whether an image with this prompt and generator belongs to the subset."""
        words, wanted = self.prompt_contains, self.generator
        return (words is None or words.lower() in (prompt or "").lower()) and (
            wanted is None or wanted == generator
        )


@dataclass(frozen=True)
class Recipe:
    """What decides every byte of the synthetic set, which `data.synthetic` makes.

    Attributes:
        seed: seed of all randomness.
        scenes_per_kind: procedural scenes of each of the ten kinds; each is a source.
        crops_per_photograph: views of each photograph; all of one photograph are one source.
        crops_per_texture: views of each photographed texture; one source per texture.
        patterns_per_kind: pictures of each of the ten kinds of pattern; each is a source.
        degraded_per_view: degraded versions of each scene and crop, each with another degradation;
            at most MOST_DEGRADED.
    """

    seed: int = 20
    scenes_per_kind: int = 30
    crops_per_photograph: int = 10
    crops_per_texture: int = 8
    patterns_per_kind: int = 9
    degraded_per_view: int = 6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or value < 0:
                raise ConfigError(f"Recipe {name} is {value!r}; expected an integer of 0 or more.")
        if self.degraded_per_view > MOST_DEGRADED:
            raise ConfigError(
                f"degraded_per_view is {self.degraded_per_view}; there are only {MOST_DEGRADED} "
                "degradations."
            )


@dataclass(frozen=True)
class DataSettings:
    """Where the rated images are.

    Attributes:
        name: name of the data set, as the model card states it; "AGIQA-3k" and "AIGCQA-20k" are
            those of the paper, whose numbers are then shown next to ours.
        csv: the table.
        image_folder: by default `images` next to the table.
        columns: names of the table's columns.
        generator_pattern: regular expression whose first group, found in the image's name, is its
            generator, for tables without such a column.
        mos_range: lowest and highest possible score.
        subsets: images that the evaluation reports on their own.
        synthetic: recipe of the synthetic set, which is then made if `csv` is missing.
    """

    name: str
    csv: str
    image_folder: str | None = None
    columns: Columns = field(default_factory=Columns)
    generator_pattern: str | None = None
    mos_range: tuple[float, float] = (0.0, 5.0)
    subsets: tuple[Subset, ...] = ()
    synthetic: Recipe | None = None

    def __post_init__(self) -> None:
        low, high = self.mos_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(
                f"data.mos_range is {low:g} to {high:g}; give the lowest possible score, then the "
                "highest one."
            )
