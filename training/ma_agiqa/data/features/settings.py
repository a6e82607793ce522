"""The section `features` of a config."""

from dataclasses import dataclass

from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.sources import DTYPES


@dataclass(frozen=True)
class FeatureSettings:
    """How the features of the images are made and where they are kept.

    Attributes:
        folder: folder of the store; by default `features` next to the table.
        dtype: format of the embedder's weights, one of `lmm.sources.DTYPES`.
        batch_size: number of images per call of the embedder, on each GPU.
        workers: number of threads that read and decode images.
    """

    folder: str | None = None
    dtype: str = "float32"
    batch_size: int = 32
    workers: int = 4

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"features.dtype is {self.dtype!r}; choose from {sorted(DTYPES)}.")
        if self.batch_size < 1 or self.workers < 1:
            raise ConfigError(
                f"features: batch_size {self.batch_size} and workers {self.workers} must be 1 or "
                "more."
            )
