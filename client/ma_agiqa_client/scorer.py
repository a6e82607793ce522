"""Scores images with a served MA-AGIQA.

>>> with Scorer("localhost:8001") as scorer:
...     print(scorer.score("cat.png").mos)
"""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from ma_agiqa_client._core import operations as do
from ma_agiqa_client._core.base import BaseScorer, check_window
from ma_agiqa_client._core.cancellation import CallGroup, cancelled
from ma_agiqa_client._core.ordering import Sequencer, best_first
from ma_agiqa_client._wire.grpc import GrpcTransport, Transport
from ma_agiqa_client._wire.images import ImageLike, check_sources, detach
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import InvalidImageError
from ma_agiqa_client.explain import MAX_ANSWER_TOKENS, AnswerChannel, AnswerPart
from ma_agiqa_client.score import Score

__all__ = ["Scorer"]

_T = TypeVar("_T")


class Scorer(BaseScorer[Transport]):
    """A connection to a server. Use one from as many threads as you like, and keep it.

    A call is sent again, always within its deadline,

    - for as long as `Retry` says, when the server is not available: nobody answers, it is
      overloaded, it loads or unloads the model, or a process of it has died ("Stub process ... is
      not healthy") and it is about to be started again;
    - once, when the server refused it before any work and the next try goes differently: the
      server's clock is ahead and said by how much, or the server has lost the shared memory, such
      as in a restart.

    Nothing else is sent again; `explain` is for the clock alone, and before the first word.
    """

    _connect = GrpcTransport

    def score(
        self, source: ImageLike, *, maps: bool = False, timeout_s: float | None = None
    ) -> Score:
        """Score one image.

        Args:
            source: path, encoded bytes, binary file object, Pillow image, or NumPy array or torch
                tensor: (height, width, 3), (3, height, width) or (height, width), uint8 in 0-255
                or floating point in 0-1. Web addresses with `fetch_urls` only.
            maps: whether to ask for `patch_score` and `patch_weight` as well.
            timeout_s: seconds this call may take; the scorer's own by default.

        Raises:
            InvalidImageError: the image cannot be scored.
            ServerUnavailableError: nobody answers at the address, the server is overloaded, or one
                side does not accept the other's certificate.
            DeadlineExceededError: no answer in time.
            AuthenticationError: the server refuses the token.
            WrongModelError: the server does not serve MA-AGIQA, or not the `version` asked for.
            RequestCancelledError: the scorer was closed meanwhile.
            ServerError: the server failed in another way.
        """
        clock = self._clock(timeout_s)
        return self._run(self._core.score(source, maps, clock, source), self._calls)

    def score_many(
        self,
        sources: Iterable[ImageLike],
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[Score]:
        """Score images several at a time, each in a request of its own.

        The server gathers the requests into batches. `sources` is consumed lazily, on the caller's
        thread: at most `max_in_flight` images more than the scores taken so far. Stop early with
        `close()` on the iterator, which cancels what is under way. Arrays, buffers and files may
        be reused or closed once the next image is asked for.

        Args:
            sources: images as `score` takes them, or one array of 4 dimensions; may be endless.
            ordered: whether to give the scores in the order of `sources`, or as they come;
                `Score.index` is the place in `sources` either way.
            max_in_flight: images under way at once, at least 1.
            maps: whether to ask for `patch_score` and `patch_weight` as well.
            timeout_s: seconds each image may take; the scorer's own by default.

        Yields:
            One score per image. A failure belongs to its image: its score has `mos` None and the
            reason in `error`. No `ClientError` is raised.

        Raises:
            ValueError: `max_in_flight` is below 1, or `timeout_s` is not positive.
            TypeError: `sources` is one image.
        """
        self._clock(timeout_s)  # a bad timeout or a closed scorer is an error of this call
        several = check_sources(sources)
        return self._many(several, ordered, check_window(max_in_flight), maps, timeout_s)

    def rank(
        self,
        sources: Iterable[ImageLike],
        *,
        top: int | None = None,
        max_in_flight: int = 64,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> list[Score]:
        """Score images and sort them, the best first.

        Args:
            sources: as in `score_many`; not endless.
            top: how many to give; all by default.
            max_in_flight: as in `score_many`.
            maps: as in `score_many`.
            timeout_s: as in `score_many`.

        Returns:
            The scores by falling `mos`; `source` and `index` say which image is which. Images that
            could not be scored come last, with their `error`.

        Raises:
            ClientError: none of the images could be scored; the error of the first one.
            ValueError: `top` or `max_in_flight` is below 1, or `timeout_s` is not positive.
            TypeError: `sources` is one image.
        """
        best_first([], top)  # a bad `top` is an error before the work, not after it
        scores = self.score_many(
            sources, ordered=False, max_in_flight=max_in_flight, maps=maps, timeout_s=timeout_s
        )
        return best_first(scores, top)

    def explain(
        self,
        source: ImageLike,
        question: str | None = None,
        *,
        max_tokens: int = MAX_ANSWER_TOKENS,
        timeout_s: float | None = None,
    ) -> Iterator[AnswerPart]:
        """Have the served language model say what it sees, as it writes it (paper Fig. 5).

        The answer shows what the model makes of the image; it is not where the score comes from.
        Only servers that were started with `--explain` answer; with several addresses, the first
        is asked. It is not tried again, except once where the server's clock is ahead and refused
        it before the first word. Close the iterator to stop the server early.

        Args:
            source: image as in `score`.
            question: free text of at most 1,000 tokens; the paper's two questions by default.
            max_tokens: where each answer is cut off, 1 to 512.
            timeout_s: seconds until the last word; the scorer's own by default.

        Yields:
            Pieces of text, question by question.

        Raises:
            CannotExplainError: the server does not answer questions, or its language model cannot,
                such as the demo's; or this scorer was given a `transport`.
            InvalidQuestionError: the question is empty or too long, or `max_tokens` out of range.
            InvalidImageError, ServerUnavailableError, DeadlineExceededError, AuthenticationError,
                RequestCancelledError, ServerError: as in `score`.
        """
        clock, inquiry = self._clock(timeout_s), self._inquiry(question, max_tokens)
        image = self._encoder.encode(source, clock.left_s())
        return self._answers.parts(inquiry, image, clock)

    def model(self, *, timeout_s: float | None = None) -> ModelCard:
        """Ask which model is served and what its numbers mean.

        Raises:
            WrongModelError: the server does not serve MA-AGIQA, or its card is incomplete.
            ServerUnavailableError, DeadlineExceededError, ServerError: as in `score`.
        """
        return self._run(self._core.model(self._clock(timeout_s)), self._calls)

    def health(self, *, timeout_s: float | None = None) -> bool:
        """Whether a server answers and has the whole ensemble loaded. Does not try again."""
        return self._run(self._core.health(self._clock(timeout_s)), self._calls)

    def close(self) -> None:
        """Close the connection; calls under way are cancelled. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._calls.cancel()
        self._run(self._core.close(), CallGroup())
        self._answers.close()
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        self._calls = CallGroup()
        self._answers = AnswerChannel(self._urls[0], self._connection, self._core)

    def _run(self, plan: do.Plan[_T], calls: CallGroup) -> _T:
        """Carry a plan out on this thread."""
        try:
            operation = next(plan)
            while True:
                try:
                    outcome = self._perform(operation, calls)
                except Exception as error:
                    operation = plan.throw(self._explain(error))
                else:
                    operation = plan.send(outcome)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            plan.close()

    def _explain(self, error: Exception) -> Exception:
        """gRPC raises a ValueError when a channel is used that another thread has closed."""
        return cancelled() if self._closed and isinstance(error, ValueError) else error

    def _perform(self, operation: do.Operation, calls: CallGroup) -> Any:
        match operation:
            case do.Encode(source, timeout_s):
                return self._encoder.encode(source, timeout_s)
            case do.Infer(server, request, timeout_s):
                return calls.wait_for(self._transports[server].infer(request, timeout_s))
            case do.Sleep(seconds):
                return calls.sleep(seconds)
            case do.GetConfig(server, timeout_s):
                return self._transports[server].model_config(timeout_s)
            case do.GetReady(server, timeout_s):
                return self._transports[server].model_ready(timeout_s)
            case do.Register(server, name, byte_size, timeout_s):
                return self._transports[server].register_memory(name, byte_size, timeout_s)
            case do.Unregister(server, name, timeout_s):
                return self._transports[server].unregister_memory(name, timeout_s)

    def _many(
        self,
        sources: Iterable[ImageLike],
        ordered: bool,
        max_in_flight: int,
        maps: bool,
        timeout_s: float | None,
    ) -> Generator[Score, None, None]:
        pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="ma-agiqa")
        calls = CallGroup(self._calls)
        done: SimpleQueue[Score | BaseException] = SimpleQueue()
        sequencer, under_way = Sequencer(ordered), 0

        def work(image: ImageLike, source: Any, index: int) -> None:
            try:
                clock = self._clock(timeout_s)
                done.put(self._run(self._core.attempt(image, maps, clock, source, index), calls))
            except BaseException as error:  # a mistake of this package: raised by `take`
                done.put(error)

        def submit(source: Any, index: int) -> None:
            try:
                pool.submit(copy_context().run, work, detach(source), source, index)
            except InvalidImageError as error:
                done.put(self._core.failed(error, self._clock(timeout_s), source, index))

        try:
            for index, source in enumerate(sources):
                submit(source, index)
                under_way += 1
                while under_way == max_in_flight or not done.empty():
                    for score in sequencer.add(_outcome(done)):
                        under_way -= 1
                        yield score
            while under_way:
                for score in sequencer.add(_outcome(done)):
                    under_way -= 1
                    yield score
        finally:
            calls.cancel()
            pool.shutdown(wait=False, cancel_futures=True)


def _outcome(done: "SimpleQueue[Score | BaseException]") -> Score:
    """Wait for the next score."""
    outcome = done.get()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
