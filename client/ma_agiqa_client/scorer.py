"""Scores images with a served MA-AGIQA.

>>> with Scorer("localhost:8001") as scorer:
...     print(scorer.score("cat.png").mos)
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from ma_agiqa_client import _protocol
from ma_agiqa_client._images import ImageLike, detach, encode_image
from ma_agiqa_client._transport import GrpcTransport, Transport
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import ClientError, ServerUnavailableError
from ma_agiqa_client.score import Score

__all__ = ["Scorer"]

_T = TypeVar("_T")


class Scorer:
    """A connection to a server. Use one from as many threads as you like, and keep it.

    Calls that find the server not available are tried again at most 3 times, within their
    deadline; nothing else is.
    """

    def __init__(
        self,
        url: str = "localhost:8001",
        *,
        timeout_s: float = 60.0,
        transport: Transport | None = None,
    ) -> None:
        """Prepare the connection; nothing is sent until the first call.

        Args:
            url: HOST:PORT of the server's gRPC port.
            timeout_s: seconds a call may take, retries included, unless it says otherwise.
            transport: how to reach the server; gRPC to `url` by default.

        Raises:
            ValueError: `url` is not a gRPC address, or `timeout_s` is not positive.
        """
        self._url = url
        self._timeout_s = _positive(timeout_s)
        self._transport = transport or GrpcTransport(url)
        self._card: ModelCard | None = None
        self._closed = False

    def score(
        self, image: ImageLike, *, maps: bool = False, timeout_s: float | None = None
    ) -> Score:
        """Score one image.

        Args:
            image: path, encoded bytes, Pillow image, or NumPy array (height, width, 3) RGB or
                (height, width) grey, uint8 in 0-255 or floating point in 0-1.
            maps: whether to ask for `patch_score` and `patch_weight` as well.
            timeout_s: seconds this call may take; the scorer's own by default.

        Raises:
            InvalidImageError: the image cannot be scored.
            ServerUnavailableError: nobody answers at the address, or the server is overloaded.
            DeadlineExceededError: no answer in time.
            WrongModelError: the server does not serve MA-AGIQA.
            ServerError: the server failed in another way.
        """
        call = self._start(timeout_s)
        inputs = _protocol.build_inputs(encode_image(image))
        outputs = _protocol.build_outputs(maps)
        try:
            card = self._known_card(call)
            result = call.run(lambda left_s: self._transport.infer(inputs, outputs, left_s))
        except ServerUnavailableError:
            self._card = None  # whoever answers next may serve another model
            raise
        return _protocol.read_score(result, card, call.elapsed_ms(), maps)

    def score_many(
        self,
        images: Iterable[ImageLike],
        *,
        max_in_flight: int = 32,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[Score]:
        """Score images in order, several at a time, each in a request of its own.

        The server gathers the requests into batches. `images` is consumed lazily: at most
        `max_in_flight` images more than the scores taken so far. Stop early with `close()` on the
        iterator. Arrays and buffers may be reused once the next image is asked for.

        Args:
            images: whatever `score` takes; may be endless.
            max_in_flight: images under way at once, at least 1.
            maps: whether to ask for `patch_score` and `patch_weight` as well.
            timeout_s: seconds each image may take; the scorer's own by default.

        Yields:
            One score per image, in the order of `images`. A failure belongs to its image: its
            score has `mos` None and the reason in `error`.

        Raises:
            ValueError: `max_in_flight` is below 1, or `timeout_s` is not positive.
        """
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}; expected at least 1.")
        self._start(timeout_s)  # a bad timeout or a closed scorer is an error of this call
        return self._in_order(images, max_in_flight, maps, timeout_s)

    def model(self, *, timeout_s: float | None = None) -> ModelCard:
        """Ask which model is served and what its numbers mean.

        Raises:
            WrongModelError: the server does not serve MA-AGIQA, or its card is incomplete.
            ServerUnavailableError, DeadlineExceededError, ServerError: as in `score`.
        """
        call = self._start(timeout_s)
        self._card = _protocol.read_card(call.run(self._transport.model_config))
        return self._card

    def health(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server answers and has the whole ensemble loaded. Does not retry."""
        call = self._start(timeout_s)
        try:
            return self._transport.model_ready(call.left_s())
        except InferenceServerException:
            return False

    def close(self) -> None:
        """Close the connection; calls under way are cancelled. May be called twice."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, timeout_s: float | None) -> "_Call":
        if self._closed:
            raise RuntimeError("This Scorer is closed. Make another one.")
        return _Call(self._url, self._timeout_s if timeout_s is None else _positive(timeout_s))

    def _known_card(self, call: "_Call") -> ModelCard:
        """The card, asked for once. Threads that race for it get the same answer: no lock."""
        card = self._card
        if card is None:
            card = self._card = _protocol.read_card(call.run(self._transport.model_config))
        return card

    def _in_order(
        self, images: Iterable[ImageLike], max_in_flight: int, maps: bool, timeout_s: float | None
    ) -> Iterator[Score]:
        pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="ma-agiqa")
        pending: deque[Future[Score]] = deque()
        try:
            for image in images:
                pending.append(pool.submit(self._attempt, detach(image), maps, timeout_s))
                while pending and (len(pending) == max_in_flight or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _attempt(self, image: ImageLike, maps: bool, timeout_s: float | None) -> Score:
        started = time.monotonic()
        try:
            return self.score(image, maps=maps, timeout_s=timeout_s)
        except ClientError as error:
            card = self._card
            name = card.name if card else None
            return Score.failed(error, (time.monotonic() - started) * 1e3, name)


class _Call:
    """The clock and the retries of one call."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._started = time.monotonic()

    def elapsed_ms(self) -> float:
        return (time.monotonic() - self._started) * 1e3

    def left_s(self) -> float:
        return self._timeout_s - (time.monotonic() - self._started)

    def run(self, send: Callable[[float], _T]) -> _T:
        """Call `send` with the seconds left until it answers, time is up or retries are."""
        tries = 0
        while (left_s := self.left_s()) > 0:
            tries += 1
            try:
                return send(left_s)
            except InferenceServerException as failure:
                error = _protocol.to_client_error(
                    failure.status(), failure.message(), self._url, self._timeout_s
                )
                jitter = random.random()
                delay_s = _protocol.retry_delay_s(error, tries, self.left_s(), jitter)
                if delay_s is None:
                    raise error from failure
            time.sleep(delay_s)
        raise _protocol.deadline_exceeded(self._url, self._timeout_s)


def _positive(timeout_s: float) -> float:
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; expected more than 0 seconds.")
    return timeout_s
