"""The section `data` of a config: where the rated images are, and what their table means."""

from dataclasses import dataclass, field
from pathlib import Path

from ma_agiqa.data.table import Columns, RatedImage, read_table
from ma_agiqa.errors import ConfigError
from ma_agiqa.data.synthetic import Recipe, ensure

__all__ = ["DataSettings", "Subset", "read_images"]


@dataclass(frozen=True)
class Subset:
    """Images that an evaluation reports on their own; all conditions given must hold.

    Attributes:
        name: heading of its row.
        prompt_contains: text in the prompt, upper and lower case alike.
        generator: of the image.
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
        name: of the data set, as the model card states it; "AGIQA-3k" and "AIGCQA-20k" are those
            of the paper, whose numbers are then shown beside ours.
        csv: the table.
        image_folder: by default `images` beside the table.
        columns: names of the table's columns.
        generator_pattern: regular expression whose first group, found in the image's name, is its
            generator, for tables without such a column.
        mos_range: lowest and highest possible score.
        subsets: reported on their own by the evaluation.
        synthetic: the recipe of the synthetic set, which is then built where `csv` is missing.
    """

    name: str
    csv: str
    image_folder: str | None = None
    columns: Columns = field(default_factory=Columns)
    generator_pattern: str | None = None
    mos_range: tuple[float, float] = (0.0, 5.0)
    subsets: tuple[Subset, ...] = ()
    synthetic: Recipe | None = None


def read_images(data: DataSettings) -> tuple[RatedImage, ...]:
    """Read the table of a run; builds the synthetic set where it is asked for and missing.

    Raises:
        ConfigError, DataError: see `table.read_table`.
    """
    if data.synthetic is not None:
        ensure(Path(data.csv).parent, data.synthetic)
    return read_table(
        data.csv, data.image_folder, data.columns, data.mos_range, data.generator_pattern
    )
