"""The section `data` of a config: where the rated images are, and what their table means."""

import math
from dataclasses import dataclass, field

from ma_agiqa.data.table import Columns, RatedImage, read_table
from ma_agiqa.errors import ConfigError


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
    """

    name: str
    csv: str
    image_folder: str | None = None
    columns: Columns = field(default_factory=Columns)
    generator_pattern: str | None = None
    mos_range: tuple[float, float] = (0.0, 5.0)
    subsets: tuple[Subset, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.mos_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(
                f"data.mos_range is {low:g} to {high:g}; give the lowest possible score, then the "
                "highest one."
            )


def read_images(data: DataSettings) -> tuple[RatedImage, ...]:
    """Read the table of a run.

    Raises:
        ConfigError, DataError: see `table.read_table`.
    """
    return read_table(
        data.csv, data.image_folder, data.columns, data.mos_range, data.generator_pattern
    )
