"""Scores of a worker that holds the models itself, instead of asking a server.

    files --threads and processes--> views --batches--> embedder, scorer --> scores

Needs the distribution `ma-agiqa`, which brings torch; both are imported on the workers, when the
models are loaded, and by `read_card`.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ma_agiqa_client._core import protocol
from ma_agiqa_client._wire.images import Encoder
from ma_agiqa_client.bulk._store import JobError
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import ClientError, InvalidImageError, ServerError
from ma_agiqa_client.score import Failure, Score

_BUSY_S = 0.5  # until a large picture is tried again

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalModels:
    """The models of a worker; the fields are named after the options of the command line.

    Attributes:
        local: the scorer's checkpoint, a path that is the same on all nodes.
        embedder: source of the embedder; None is the one that the checkpoint's card names.
        dtype: what the embedder's weights are kept in; None is what the scorer was trained with.
        gpus: GPUs of each worker, or a share of one; 0 computes on the CPU. None, as for `cores`,
            leaves the choice to `placed`.
        cores: CPU cores of each worker: that many images are decoded at once.
        batch: images in a batch.
    """

    local: str
    embedder: str | None = None
    dtype: str | None = None
    gpus: float | None = None
    cores: int | None = None
    batch: int = 32


def placed(
    models: LocalModels, workers: int | None, nodes: Sequence[Mapping[str, Any]]
) -> tuple[LocalModels, int]:
    """Divide the nodes of a Ray cluster into workers.

    Args:
        models: what was asked for.
        workers: number of workers; None is as many as there is room for.
        nodes: what `ray.nodes()` returns.

    Returns:
        The models with the GPUs and cores that Ray reserves for each worker, and their number.

    Raises:
        JobError: no node has that much.
    """
    found = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = models.gpus
    if gpus is None:
        gpus = float(any(node.get("GPU", 0) >= 1 for node in found))
    rooms: list[tuple[int, int]] = []
    for node in found:
        room = int(node.get("GPU", 0) / gpus) if gpus else 1
        if models.cores:
            room = min(room, int(node.get("CPU", 0)) // models.cores)
        if room and (cores := int(node.get("CPU", 0)) // room):
            rooms.append((room, cores))
    if not rooms:
        raise JobError(
            f"No node of the cluster has room for a worker with {gpus:g} GPUs and "
            f"{models.cores or 1} cores. Give less with --gpus and --cores, or start such nodes."
        )
    cores = models.cores or min(cores for _, cores in rooms)
    count = workers or sum(room for room, _ in rooms)
    return replace(models, gpus=gpus, cores=cores), count


def read_card(checkpoint: str) -> ModelCard:
    """Read the card of a checkpoint, as a server would give it.

    Raises:
        JobError: it cannot be read, or `ma-agiqa` is not installed.
    """
    try:
        from ma_agiqa.checkpoints import checkpoint_sha256, load_scorer
        from ma_agiqa.errors import MAAGIQAError
    except ImportError as error:
        raise _not_installed(error) from error
    try:
        scorer, card = load_scorer(checkpoint)
        sha256 = checkpoint_sha256(checkpoint)
    except (MAAGIQAError, OSError) as error:
        raise JobError(str(error)) from error
    return ModelCard.from_parameters(card.parameters(sha256, scorer.config.gate_activation))


class LocalScorer:
    """Has what a worker uses of a `Scorer`. Its scores are those of a server, but for rounding."""

    def __init__(self, settings: LocalModels) -> None:
        """Load the models, which takes minutes at the paper's size.

        Raises:
            JobError: they cannot be loaded, or do not belong together.
        """
        try:
            import cv2
            import torch

            from ma_agiqa.checkpoints import load_calibration
            from ma_agiqa.errors import MAAGIQAError
            from ma_agiqa.images.preparation import Preparation
            from ma_agiqa.networks.arithmetic import choose_arithmetic
            from ma_agiqa.networks.calibration import CalibratedScorer
            from ma_agiqa.pipeline import ImageScorer
        except ImportError as error:
            raise _not_installed(error) from error
        cv2.setNumThreads(1)  # otherwise each decoding thread starts as many of its own
        cores = settings.cores or 1
        torch.set_num_threads(cores)
        device = "cuda" if settings.gpus else "cpu"
        try:
            exact = ImageScorer.load(settings.local, settings.embedder, device, settings.dtype)
            calibration = load_calibration(settings.local)
        except (MAAGIQAError, OSError, RuntimeError) as error:  # RuntimeError: there is no GPU
            raise JobError(f"The models of {settings.local} cannot be loaded: {error}") from error
        self._card = read_card(settings.local)
        self._batch = settings.batch
        self._encoder = Encoder()
        mos_range = self._card.mos_max - self._card.mos_min
        fast = choose_arithmetic(exact.scorer, "auto", device == "cuda", mos_range)
        scorer = CalibratedScorer(fast, calibration[0]).to(device) if calibration else fast
        self._images = ImageScorer(exact.embedder, scorer)
        self._preparation = Preparation(exact.embedder.image_size, cores)

    def model(self) -> ModelCard:
        """Return the card of the models."""
        return self._card

    def score_many(
        self, sources: Iterable[str | bytes], *, max_in_flight: int
    ) -> Iterator[Score | Failure]:
        """Score paths and files in batches; yield one result for each, in order.

        Args:
            sources: consumed lazily.
            max_in_flight: images that are decoded while a batch is computed.

        Raises:
            JobError: a batch does not fit the GPU's memory.
        """
        waiting: deque[_Waiting] = deque()
        for source in sources:
            waiting.append(self._begin(source))
            if len(waiting) == self._batch + max_in_flight:
                yield from self._score([waiting.popleft() for _ in range(self._batch)])
        while waiting:
            yield from self._score(
                [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
            )

    def _begin(self, source: str | bytes) -> "_Waiting":
        """Begin to make the views of an image."""
        try:
            data = self._encoder.encode(source)
        except InvalidImageError as error:
            unread: Future[Any] = Future()
            unread.set_exception(error)
            return _Waiting(source, b"", unread)
        return _Waiting(source, data, self._submit(data))

    def _submit(self, data: bytes) -> "Future[Any]":
        from ma_agiqa.images.preparation import Order

        return self._preparation.submit(Order(data))

    def _views(self, image: "_Waiting") -> Any:
        """Wait for the views of an image; return them, or the error that its row gets."""
        from ma_agiqa.errors import ImageError
        from ma_agiqa.images.preparation import OverloadError

        views = image.views
        while True:
            try:
                return views.result()
            except OverloadError:  # too many large pictures wait; those before this one are done
                time.sleep(_BUSY_S)
                views = self._submit(image.data)
            except InvalidImageError as error:
                return error
            except ImageError as error:
                return InvalidImageError(str(error))
            except Exception as error:
                logger.exception("An image could not be prepared")
                return ServerError(f"The image could not be prepared: {error}")

    def _score(self, images: "Sequence[_Waiting]") -> Iterator[Score | Failure]:
        """Score a batch; images without views get no place in it."""
        views = [self._views(image) for image in images]
        results = iter(self._compute([one for one in views if not isinstance(one, ClientError)]))
        for image, made in zip(images, views, strict=True):
            if isinstance(made, ClientError):
                yield Failure(image.source, made, model=self._card.name)
            else:
                yield self._outcome(image.source, next(results))

    def _compute(self, views: Sequence[Any]) -> "list[_Result]":
        import torch

        if not views:
            return []
        quality = torch.from_numpy(np.stack([one.quality for one in views]))
        semantic = torch.from_numpy(np.stack([one.semantic for one in views]))
        try:
            output = self._images.score_views(quality, semantic)
        except torch.OutOfMemoryError as error:
            raise JobError(
                f"A batch of {len(views)} images does not fit the memory of the GPU. "
                f"Give a --batch below {self._batch}."
            ) from error
        tensors = {name.upper(): part.cpu().numpy() for name, part in output._asdict().items()}
        return [
            _Result({name: part[i : i + 1] for name, part in tensors.items()})
            for i in range(len(views))
        ]

    def _outcome(self, source: str | bytes, result: "_Result") -> Score | Failure:
        try:
            return protocol.read_score(
                result,
                self._card,
                source=source,
                index=None,
                latency_ms=0.0,
                maps=False,
                request_id="",
            )
        except ServerError as error:  # not a finite number
            return Failure(source, error, model=self._card.name)


@dataclass(frozen=True)
class _Waiting:
    """An image whose views are being made."""

    source: str | bytes
    data: bytes
    views: "Future[Any]"


@dataclass(frozen=True)
class _Result:
    """The tensors of one image, as the answer of a server has them."""

    tensors: Mapping[str, npt.NDArray[Any]]

    def as_numpy(self, name: str) -> npt.NDArray[Any] | None:
        return self.tensors.get(name)


def _not_installed(error: ImportError) -> JobError:
    return JobError(
        f"--local computes with the package ma-agiqa, which is not installed here ({error}). Run "
        "in a clone of the repository, on every node: "
        "pip install -c constraints.txt './training[scorer]'"
    )
