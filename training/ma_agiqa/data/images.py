"""The rated images of a run."""

from ma_agiqa.data.settings import DataSettings
from ma_agiqa.data.table import RatedImage, read_table


def read_images(data: DataSettings) -> tuple[RatedImage, ...]:
    """Read the table of a run.

    Raises:
        ConfigError, DataError: see `table.read_table`.
    """
    return read_table(
        data.csv, data.image_folder, data.columns, data.mos_range, data.generator_pattern
    )
