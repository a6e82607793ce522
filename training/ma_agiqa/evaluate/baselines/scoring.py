"""Scores of many images by one method, with the next images decoded meanwhile."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ma_agiqa.data import RatedImage
from ma_agiqa.errors import DataError, MAAGIQAError
from ma_agiqa.evaluate.baselines.brisque import BrisquePackage
from ma_agiqa.evaluate.baselines.methods import Method
from ma_agiqa.evaluate.baselines.pyiqa_metrics import PyiqaScorer, is_installed
from ma_agiqa.images.views import RGB, decode

_MOST_DECODERS = 4


class Scorer(Protocol):
    """Scores images.

    Attributes:
        origin: where the code and the weights come from, for the report.
    """

    origin: str

    def score(self, rgb: RGB) -> float:
        """The method's own value of an image, uint8 (H, W, 3)."""
        ...


@dataclass(frozen=True)
class Options:
    """How methods run.

    Attributes:
        device: where networks run, such as "cpu" or "cuda".
        download: fetch missing weights.
        progress: show bars on stderr.
    """

    device: str = "cpu"
    download: bool = False
    progress: bool = False


def load(key: str, options: Options) -> Scorer:
    """A method with its published weights.

    Raises:
        ConfigError: its code is not on this machine.
        DownloadError, CheckpointError: its weights are missing or do not fit.
    """
    if key == "qalign":
        from ma_agiqa.evaluate.baselines.q_align import QAlignScorer

        return QAlignScorer(options.device, options.download)
    if key == "brisque" and not is_installed():
        return BrisquePackage()
    return PyiqaScorer(key, options.device, options.download)


def read_rgb(image: RatedImage) -> RGB:
    """Decode an image's file to uint8 (H, W, 3).

    Raises:
        DataError: the file cannot be read or decoded; the message names it.
    """
    try:
        return decode(image.path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {image.path}: {error.strerror}.") from error
    except MAAGIQAError as error:
        raise DataError(f"{image.path}: {error}") from error


def score_images(
    scorer: Scorer, images: Sequence[RatedImage], method: Method, progress: bool = False
) -> list[float]:
    """The method's own value of every image, in their order.

    Args:
        scorer: the method.
        images: the images.
        method: says whether images are shared out to one process per core.
        progress: show a bar on stderr.

    Raises:
        DataError: an image cannot be read or measured; the message names it.
    """
    cores = len(os.sched_getaffinity(0))
    jobs = _Scores(scorer if method.cpu_bound else None, images)
    workers = cores if method.cpu_bound else min(cores, _MOST_DECODERS)
    found = DataLoader(jobs, batch_size=None, num_workers=workers, collate_fn=lambda item: item)
    bar = tqdm(found, method.name, len(images), unit="image", disable=not progress)
    values = []
    for image, item in zip(images, bar, strict=True):
        if isinstance(item, DataError):
            raise item
        values.append(item if method.cpu_bound else _value(scorer, image, item))
    return values


class _Scores(Dataset[Any]):
    """Scores of images, or without a scorer the images, decoded; a DataError is a result."""

    def __init__(self, scorer: Scorer | None, images: Sequence[RatedImage]) -> None:
        self._scorer, self._images = scorer, images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        image = self._images[index]
        try:
            rgb = read_rgb(image)
            return rgb if self._scorer is None else _value(self._scorer, image, rgb)
        except DataError as error:
            return error


def _value(scorer: Scorer, image: RatedImage, rgb: RGB) -> float:
    try:
        return scorer.score(rgb)
    except DataError as error:
        raise DataError(f"{image.name}: {error}") from error
