"""Scores images with a served MA-AGIQA.

>>> with Scorer("localhost:8001") as scorer:
...     print(scorer.score("cat.png").mos)
"""

import os
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

from ma_agiqa_client._base import BaseScorer
from ma_agiqa_client._core import operations as do
from ma_agiqa_client._core.cancellation import CallGroup, cancelled
from ma_agiqa_client._core.ordering import Sequencer, best_first
from ma_agiqa_client._core.prompts import PromptPerImage, Prompts
from ma_agiqa_client._core.transport import Transport
from ma_agiqa_client._wire.grpc import GrpcTransport
from ma_agiqa_client._wire.images import ImageLike
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.comparison import Comparison
from ma_agiqa_client.explain import MAX_ANSWER_TOKENS, AnswerPart
from ma_agiqa_client.score import Failure, Score

__all__ = ["Scorer"]

_T = TypeVar("_T")


class Scorer(BaseScorer[Transport]):
    """A connection to a server. Make one, keep it, and use it from any number of threads.

    A call is sent again, always within its deadline,

    - for as long as `Retry` says, if the server is not available: it does not answer, is
      overloaded, is loading or unloading the model, or one of its processes has died ("Stub process
      ... is not healthy") and is about to be restarted;
    - once, if the server's clock is ahead, so that the server refused the call before any work and
      sent its time.

    Nothing else is sent again. `explain` is sent again only because of the clock, and only before
    the first word.
    """

    _connect = GrpcTransport

    def score(
        self,
        source: ImageLike,
        *,
        prompt: str | None = None,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> Score:
        """Score one image.

        Args:
            source: path, encoded bytes, binary file object, Pillow image, or NumPy array or torch
                tensor: (height, width, 3), (3, height, width) or (height, width), uint8 in 0-255
                or floating point in 0-1. Web addresses only with `fetch_urls`.
            prompt: the text that the image was made from, at most about 1,000 tokens: the score
                then has an `alignment`. Its `mos` stays the same.
            maps: whether to ask for `patch_score` and `patch_weight` as well.
            timeout_s: seconds that this call may take; the scorer's `timeout_s` by default.

        Raises:
            InvalidImageError: the image cannot be scored.
            InvalidPromptError: the prompt is empty or too long.
            CannotAlignError: the server does not compare images with prompts, or its language model
                cannot, as that of the demo.
            ServerUnavailableError: no server answers at the address, it is overloaded, or one side
                does not accept the other's certificate.
            DeadlineExceededError: there was no answer in time.
            AuthenticationError: the server refused the token.
            WrongModelError: the server does not serve MA-AGIQA, or not the `version` asked for.
            RequestCancelledError: the scorer was closed during the call.
            ServerError: the server failed in another way.
        """
        clock = self._clock(timeout_s)
        plan = self._core.score(source, maps, clock, source, prompt=prompt)
        return self._run(plan, self._calls)

    def score_many(
        self,
        sources: Iterable[ImageLike],
        *,
        prompts: Prompts = None,
        ordered: bool = True,
        max_in_flight: int = 64,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> Generator[Score | Failure, None, None]:
        """Score several images at a time, each in its own request.

        The server gathers the requests into batches. `sources` is consumed lazily, on the caller's
        thread: at most `max_in_flight` images ahead of the results taken so far. To stop early,
        call `close()` on the iterator: it cancels the requests in flight.

        Whatever an image is, it may be reused, changed, overwritten or closed once the next one is
        asked for. So the files of a generator are read one after the other; those of a list or
        tuple are read on several threads.

        Args:
            sources: images as `score` takes them, or one array of 4 dimensions; may be endless.
            prompts: the texts that the images were made from, one for each and None where it is
                not known, consumed along with `sources`; or one for all. Those images get an
                `alignment`. Images with and without a prompt are in different batches on the
                server, so that few of each in turns are slower than many of one kind.
            ordered: whether to yield the results in the order of `sources`, or as they arrive;
                `index` is the position in `sources` in both cases.
            max_in_flight: maximum number of images in flight, at least 1.
            maps: whether to ask for `patch_score` and `patch_weight` as well.
            timeout_s: seconds that each image may take; the scorer's `timeout_s` by default.

        Yields:
            For each image a `Score`, or a `Failure` with the reason in `error`. No `ClientError` is
            raised.

        Raises:
            ValueError: `max_in_flight` is below 1, or `timeout_s` is not positive; or, when the
                images or the prompts end, there are more of the others.
            TypeError: `sources` is one image.
        """
        several = self._several(sources, max_in_flight, timeout_s)
        each = PromptPerImage(prompts)
        return self._many(several, each, ordered, max_in_flight, maps, timeout_s)

    def rank(
        self,
        sources: Iterable[ImageLike],
        *,
        prompts: Prompts = None,
        top: int | None = None,
        max_in_flight: int = 64,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> list[Score | Failure]:
        """Score images and sort them, the best first.

        Args:
            sources: as in `score_many`, but not endless.
            prompts: as in `score_many`; the order is that of `mos` all the same.
            top: how many to return; all by default.
            max_in_flight: as in `score_many`.
            maps: as in `score_many`.
            timeout_s: as in `score_many`.

        Returns:
            The scores by falling `mos`; `source` and `index` identify the images, and `lead` says
            how sure it is that an image is better than the next one. Images that could not be
            scored come last, each as a `Failure`.

        Raises:
            ClientError: none of the images could be scored; the error is that of the first image.
            WrongModelError: the server's model changed meanwhile.
            ValueError: `top` or `max_in_flight` is below 1, or `timeout_s` is not positive.
            TypeError: `sources` is one image.
        """
        best_first([], top)  # a bad `top` is an error before the work, not after it
        outcomes = self.score_many(
            sources,
            prompts=prompts,
            ordered=False,
            max_in_flight=max_in_flight,
            maps=maps,
            timeout_s=timeout_s,
        )
        ranked = list(outcomes)
        return best_first(ranked, top, self._core.known_card())

    def compare(self, a: ImageLike, b: ImageLike, *, timeout_s: float | None = None) -> Comparison:
        """Compare two images: which one would people rate higher?

        Args:
            a, b: images as `score` takes them.
            timeout_s: seconds that each image may take; the scorer's `timeout_s` by default.

        Returns:
            Both scores and the probability that people would rate `a` higher; near 0.5 it is a tie.

        Raises:
            WrongModelError: the model was not calibrated, or as in `score`.
            ClientError: as in `score`.
        """
        return self._core.compare(*self.score_many([a, b], timeout_s=timeout_s))

    def explain(
        self,
        source: ImageLike,
        question: str | None = None,
        *,
        max_tokens: int = MAX_ANSWER_TOKENS,
        timeout_s: float | None = None,
    ) -> Generator[AnswerPart, None, None]:
        """Ask the served language model about an image; yields its answer as it is written.

        The answer (paper Fig. 5) shows what the model makes of the image; the score is not computed
        from it. Only servers that were started with `--explain` answer; of several addresses, the
        first is asked. The question is not sent again, except once if the server's clock is ahead
        and it refused before the first word. Close the iterator to stop the server early.

        Args:
            source: image as in `score`.
            question: free text of at most 1,000 tokens; the paper's two questions by default.
            max_tokens: maximum length of each answer in tokens, 1 to 512.
            timeout_s: seconds until the last word; the scorer's `timeout_s` by default.

        Yields:
            Pieces of text, question by question.

        Raises:
            CannotExplainError: the server does not answer questions, or its language model cannot,
                as that of the demo; or this scorer was given a `transport`.
            InvalidQuestionError: the question is empty or too long, or `max_tokens` out of range.
            InvalidImageError, ServerUnavailableError, DeadlineExceededError, AuthenticationError,
                RequestCancelledError, ServerError: as in `score`.
        """
        clock, inquiry = self._clock(timeout_s), self._inquiry(question, max_tokens)
        image = self._encoder.encode(source, clock.left_s())
        return self._parts(self._answers(clock).parts(inquiry, image))

    def model(self, *, timeout_s: float | None = None) -> ModelCard:
        """Ask which model is served and what its numbers mean.

        Raises:
            WrongModelError: the server does not serve MA-AGIQA, or its card is incomplete.
            ServerUnavailableError, DeadlineExceededError, ServerError: as in `score`.
        """
        return self._run(self._core.model(self._clock(timeout_s)), self._calls)

    def health(self, *, timeout_s: float | None = None) -> bool:
        """Return whether a server answers and has loaded the whole ensemble. Does not retry."""
        return self._run(self._core.health(self._clock(timeout_s)), self._calls)

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._is_inherited():
            return
        self._calls.cancel()
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        self._calls = CallGroup()

    def _run(self, plan: do.Plan[_T], calls: CallGroup) -> _T:
        """Carry out a plan on this thread; `_core/plan.py` has a picture of the plans."""
        try:
            operation = next(plan)
            while True:
                try:
                    outcome = self._perform(operation, calls)
                except Exception as error:
                    operation = plan.throw(self._unless_closed(error))
                else:
                    operation = plan.send(outcome)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            plan.close()

    def _parts(self, parts: Generator[AnswerPart, None, None]) -> Generator[AnswerPart, None, None]:
        try:
            yield from parts
        except ValueError as error:
            if self._closed:
                raise cancelled() from error
            raise

    def _unless_closed(self, error: Exception) -> Exception:
        """gRPC raises a ValueError if a channel is used that another thread has closed."""
        return cancelled() if self._closed and isinstance(error, ValueError) else error

    def _perform(self, operation: do.Operation, calls: CallGroup) -> Any:
        match operation:
            case do.Encode(source, timeout_s):
                return self._encoder.encode(source, timeout_s)
            case do.GetConfig(server, timeout_s):
                return self._transports[server].model_config(timeout_s)
            case do.Infer(server, request, timeout_s):
                return calls.wait_for(self._transports[server].infer(request, timeout_s))
            case do.GetReady(server, timeout_s):
                return self._transports[server].model_ready(timeout_s)
            case do.Sleep(seconds):
                return calls.sleep(seconds)

    def _many(
        self,
        sources: Iterable[ImageLike],
        prompts: PromptPerImage,
        ordered: bool,
        max_in_flight: int,
        maps: bool,
        timeout_s: float | None,
    ) -> Generator[Score | Failure, None, None]:
        pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="ma-agiqa")
        calls = CallGroup(self._calls)
        done: SimpleQueue[Score | Failure | BaseException] = SimpleQueue()
        sequencer, in_flight, process = Sequencer(ordered), 0, os.getpid()
        files_wait = isinstance(sources, list | tuple)

        def work(image: Any, source: Any, index: int, prompt: str | None) -> None:
            try:
                clock = self._clock(timeout_s)
                plan = self._core.attempt(image, maps, clock, source, index, prompt)
                done.put(self._run(plan, calls))
            except BaseException as error:  # the scorer is closed, or a bug: raised by `finished`
                done.put(error)

        def finished() -> list[Score | Failure]:
            """Wait for the next outcome; return those whose turn it is."""
            if os.getpid() != process:
                raise RuntimeError("The process was forked while scoring. Call score_many again.")
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            return sequencer.add(outcome)

        try:
            for index, source in enumerate(sources):
                image = self._encoder.take(source, files_wait=files_wait)
                pool.submit(copy_context().run, work, image, source, index, prompts.next())
                in_flight += 1
                while in_flight == max_in_flight or not done.empty():
                    for outcome in finished():
                        in_flight -= 1
                        yield outcome
            while in_flight:
                for outcome in finished():
                    in_flight -= 1
                    yield outcome
            prompts.end()
        finally:
            if os.getpid() == process:
                calls.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
