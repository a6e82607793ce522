"""The rated images of a run."""

from pathlib import Path

from ma_agiqa.data.settings import DataSettings
from ma_agiqa.data.table import RatedImage, read_table


def read_images(data: DataSettings) -> tuple[RatedImage, ...]:
    """Read the table of a run; makes the synthetic set if the settings ask for it.

    Raises:
        ConfigError, DataError: see `table.read_table`.
    """
    if data.synthetic is not None:
        from ma_agiqa.data.synthetic.build import ensure  # draws pictures: for this set only

        ensure(Path(data.csv).parent, data.synthetic)
    return read_table(
        data.csv, data.image_folder, data.columns, data.mos_range, data.generator_pattern
    )
