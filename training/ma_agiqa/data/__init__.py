"""Tables of images with mean opinion scores, and their division into parts (paper §4.1)."""

from ma_agiqa.data.settings import DataSettings, Subset, read_images
from ma_agiqa.data.splits import PARTS, Split, SplitSettings, make_split, split_from_file
from ma_agiqa.data.table import Columns, RatedImage, read_table

__all__ = [
    "PARTS",
    "Columns",
    "DataSettings",
    "RatedImage",
    "Split",
    "SplitSettings",
    "Subset",
    "make_split",
    "read_images",
    "read_table",
    "split_from_file",
]
