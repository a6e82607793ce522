"""Many images through one method: on all cores, or on one device with the next images decoded."""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from ma_agiqa.data import RatedImage
from ma_agiqa.errors import DataError, MAAGIQAError
from ma_agiqa.evaluate.baselines.loading import Scorer
from ma_agiqa.images.views import RGB, decode

__all__ = ["read_rgb", "score_images"]

_FEW = 32  # images for which starting processes does not pay
_AHEAD = 8  # images decoded while one is scored

_scorer: Scorer | None = None  # of a worker process


def read_rgb(image: RatedImage) -> RGB:
    """Decode an image's file to uint8 (H, W, 3).

    Raises:
        DataError: the file cannot be read or decoded; the message names it.
    """
    try:
        return decode(Path(image.path).read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {image.path}: {error.strerror}.") from error
    except MAAGIQAError as error:
        raise DataError(f"{image.path}: {error}") from error


def score_images(
    scorer: Scorer,
    images: Sequence[RatedImage],
    load_again: Callable[[], Scorer] | None = None,
    title: str = "",
    progress: bool = False,
) -> list[float]:
    """The method's own value of every image, in their order.

    Args:
        scorer: scores here.
        images: to be scored.
        load_again: makes the scorer in another process; with it, images are shared out to one
            process per core.
        title: of the progress bar.
        progress: show the bar on stderr.

    Raises:
        DataError: an image cannot be read or measured, or a process died; it names the image.
    """
    cores = len(os.sched_getaffinity(0))
    in_processes = load_again is not None and cores > 1 and len(images) >= _FEW
    values = (
        _by_processes(load_again, images, cores) if in_processes else _one_by_one(scorer, images)
    )
    return list(
        tqdm(
            values,
            title,
            len(images),
            unit="image",
            file=sys.stderr,
            disable=not progress,
            smoothing=0.1,
        )
    )


def _one_by_one(scorer: Scorer, images: Sequence[RatedImage]) -> Iterator[float]:
    with ThreadPoolExecutor(2) as threads:
        rest = iter(images)
        waiting = deque((i, threads.submit(read_rgb, i)) for i in islice(rest, _AHEAD))
        while waiting:
            image, rgb = waiting.popleft()
            for following in islice(rest, 1):
                waiting.append((following, threads.submit(read_rgb, following)))
            yield _value(scorer, image, rgb.result())


def _by_processes(
    load: Callable[[], Scorer], images: Sequence[RatedImage], cores: int
) -> Iterable[float]:
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(cores, len(images)), context, _start, (load,)) as pool:
            yield from pool.map(_work, images)
    except BrokenProcessPool as error:
        raise DataError(
            "A process that scored images died; the machine may lack memory. Run this again."
        ) from error


def _start(load: Callable[[], Scorer]) -> None:
    global _scorer
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _scorer = load()


def _work(image: RatedImage) -> float:
    if _scorer is None:
        raise RuntimeError("The worker process was not started by _start.")
    return _value(_scorer, image, read_rgb(image))


def _value(scorer: Scorer, image: RatedImage, rgb: RGB) -> float:
    try:
        return scorer.score(rgb)
    except DataError as error:
        raise DataError(f"{image.name}: {error}") from error
