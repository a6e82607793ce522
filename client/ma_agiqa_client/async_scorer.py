"""Scores images with a served MA-AGIQA from an event loop.

>>> async with AsyncScorer("localhost:8001") as scorer:
...     print((await scorer.score("cat.png")).mos)
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from ma_agiqa_client._base import BaseScorer
from ma_agiqa_client._core import operations as do
from ma_agiqa_client._core.cancellation import cancelled
from ma_agiqa_client._core.ordering import Sequencer, best_first
from ma_agiqa_client._core.prompts import PromptPerImage, Prompts
from ma_agiqa_client._core.transport import AsyncTransport
from ma_agiqa_client._wire.aio import AsyncGrpcTransport
from ma_agiqa_client._wire.images import ImageLike, is_address
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.comparison import Comparison
from ma_agiqa_client.explain import MAX_ANSWER_TOKENS, AnswerPart, Inquiry
from ma_agiqa_client.retry import Clock
from ma_agiqa_client.score import Failure, Score

__all__ = ["AsyncScorer"]

_T = TypeVar("_T")


class AsyncScorer(BaseScorer[AsyncTransport]):
    """`Scorer` for asyncio: the same methods, to be awaited in any event loop.

    A call ends when its task is cancelled, and the server is told. Files are read on threads, so
    the event loop is not blocked. Each event loop has connections of its own.
    """

    _connect = AsyncGrpcTransport

    def score(
        self,
        source: ImageLike,
        *,
        prompt: str | None = None,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> Coroutine[Any, Any, Score]:
        """Score one image; as `Scorer.score`.

        To be awaited. All but files given by their path is read before this returns, so it may be
        changed or closed even if the coroutine is awaited later.
        """
        image = self._encoder.take(source, files_wait=True)
        return self._score(image, source, prompt, maps, timeout_s)

    def score_many(
        self,
        sources: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        prompts: Prompts = None,
        ordered: bool = True,
        max_in_flight: int = 64,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Score | Failure, None]:
        """Score several images at a time; as `Scorer.score_many`, to be used with `async for`.

        `sources` may be asynchronous. A separate task consumes it, at most `max_in_flight` images
        ahead of the results taken so far. To stop early, call `aclose()` on the iterator.
        """
        several = self._several(sources, max_in_flight, timeout_s)
        each = PromptPerImage(prompts)
        return self._many(several, each, ordered, max_in_flight, maps, timeout_s)

    async def rank(
        self,
        sources: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        prompts: Prompts = None,
        top: int | None = None,
        max_in_flight: int = 64,
        maps: bool = False,
        timeout_s: float | None = None,
    ) -> list[Score | Failure]:
        """Score images and sort them, the best first; as `Scorer.rank`."""
        best_first([], top)  # a bad `top` is an error before the work, not after it
        outcomes = self.score_many(
            sources,
            prompts=prompts,
            ordered=False,
            max_in_flight=max_in_flight,
            maps=maps,
            timeout_s=timeout_s,
        )
        ranked = [outcome async for outcome in outcomes]
        return best_first(ranked, top, self._core.known_card())

    async def compare(
        self, a: ImageLike, b: ImageLike, *, timeout_s: float | None = None
    ) -> Comparison:
        """Compare two images; as `Scorer.compare`."""
        first, second = [one async for one in self.score_many([a, b], timeout_s=timeout_s)]
        return self._core.compare(first, second)

    def explain(
        self,
        source: ImageLike,
        question: str | None = None,
        *,
        max_tokens: int = MAX_ANSWER_TOKENS,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[AnswerPart, None]:
        """Ask the served language model about an image; as `Scorer.explain`.

        To be used with `async for`. To stop early, call `aclose()` on the iterator.
        """
        clock, inquiry = self._clock(timeout_s), self._inquiry(question, max_tokens)
        return self._parts(self._encoder.take(source, files_wait=True), inquiry, clock)

    async def model(self, *, timeout_s: float | None = None) -> ModelCard:
        """Ask which model is served and what its numbers mean; as `Scorer.model`."""
        return await self._run(self._core.model(self._clock(timeout_s)))

    async def health(self, *, timeout_s: float | None = None) -> bool:
        """Return whether a server answers and has loaded the ensemble; as `Scorer.health`."""
        return await self._run(self._core.health(self._clock(timeout_s)))

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._is_inherited():
            return
        for task in list(self._in_flight):
            task.get_loop().call_soon_threadsafe(task.cancel)
        for transport in self._transports:
            await transport.close()

    async def __aenter__(self) -> "AsyncScorer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _prepare(self) -> None:
        self._in_flight: set[asyncio.Future[Any]] = set()

    async def _score(
        self, image: Any, source: Any, prompt: str | None, maps: bool, timeout_s: float | None
    ) -> Score:
        clock = self._clock(timeout_s)
        return await self._run(self._core.score(image, maps, clock, source, prompt=prompt))

    async def _run(self, plan: do.Plan[_T]) -> _T:
        """Carry out a plan on this loop; `_core/plan.py` has a picture of the plans."""
        try:
            operation = next(plan)
            while True:
                try:
                    outcome = await self._perform(operation)
                except Exception as error:
                    operation = plan.throw(error)
                else:
                    operation = plan.send(outcome)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            plan.close()

    async def _perform(self, operation: do.Operation) -> Any:
        match operation:
            case do.Encode(source, timeout_s):
                return await self._encode(source, timeout_s)
            case do.GetConfig(server, timeout_s):
                return await self._unless_closed(self._transports[server].model_config(timeout_s))
            case do.Infer(server, request, timeout_s):
                return await self._unless_closed(self._transports[server].infer(request, timeout_s))
            case do.GetReady(server, timeout_s):
                return await self._unless_closed(self._transports[server].model_ready(timeout_s))
            case do.Sleep(seconds):
                return await self._unless_closed(asyncio.sleep(seconds))

    async def _encode(self, image: Any, timeout_s: float) -> bytes:
        if isinstance(image, bytes) and self._encoder.max_side is None:
            return self._encoder.encode(image, timeout_s)
        if not is_address(image):
            return await asyncio.to_thread(self._encoder.encode, image, timeout_s)
        own = ThreadPoolExecutor(1)  # in the loop's own pool, it would wait for other images
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(own, self._encoder.encode, image, timeout_s)
        finally:
            own.shutdown(wait=False)

    async def _parts(
        self, image: Any, inquiry: Inquiry, clock: Clock
    ) -> AsyncGenerator[AnswerPart, None]:
        data = await self._encode(image, clock.left_s())
        if self._closed:
            raise cancelled()
        try:
            async with aclosing(self._answers(clock).parts_async(inquiry, data)) as parts:
                async for part in parts:
                    yield part
        except asyncio.CancelledError:
            if self._closed:
                raise cancelled() from None
            raise

    async def _unless_closed(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for something that `close` cancels."""
        if self._closed:  # during the previous step, such as reading a file
            work.close()
            raise cancelled()
        task = asyncio.ensure_future(work)
        self._in_flight.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._closed:
                raise cancelled() from None
            raise
        finally:
            self._in_flight.discard(task)

    async def _many(
        self,
        sources: Iterable[ImageLike] | AsyncIterable[ImageLike],
        prompts: PromptPerImage,
        ordered: bool,
        max_in_flight: int,
        maps: bool,
        timeout_s: float | None,
    ) -> AsyncGenerator[Score | Failure, None]:
        done: asyncio.Queue[Score | Failure | BaseException | int] = asyncio.Queue()
        room = asyncio.Semaphore(max_in_flight)
        sequencer = Sequencer(ordered)
        tasks: set[asyncio.Task[None]] = set()

        async def work(image: Any, source: Any, index: int, prompt: str | None) -> None:
            try:
                clock = self._clock(timeout_s)
                plan = self._core.attempt(image, maps, clock, source, index, prompt)
                done.put_nowait(await self._run(plan))
            except BaseException as error:  # the scorer is closed, or a bug: raised below
                done.put_nowait(error)

        async def feed() -> None:
            """Start the work; at the end report how many images there were."""
            files_wait = isinstance(sources, list | tuple)
            try:
                each = _each(sources)
                for index in itertools.count():
                    await room.acquire()
                    try:
                        source = await anext(each)
                    except StopAsyncIteration:
                        done.put_nowait(index)
                        return
                    image: Any = source  # bytes cannot change
                    if not isinstance(source, bytes):
                        take = partial(self._encoder.take, source, files_wait=files_wait)
                        image = await asyncio.to_thread(take)
                    task = asyncio.create_task(work(image, source, index, prompts.next()))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            except BaseException as error:  # from the caller's iterator: raised below
                done.put_nowait(error)

        feeder = asyncio.create_task(feed())
        given, count = 0, None
        try:
            while given != count:
                outcome = await done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                if isinstance(outcome, int):
                    count = outcome
                    continue
                for ready in sequencer.add(outcome):
                    given += 1
                    room.release()
                    yield ready
            prompts.end()
        finally:
            for task in (feeder, *tasks):
                task.cancel()
            await asyncio.gather(feeder, *tasks, return_exceptions=True)


async def _each(
    sources: Iterable[ImageLike] | AsyncIterable[ImageLike],
) -> AsyncGenerator[ImageLike, None]:
    """Iterate over either kind."""
    if isinstance(sources, AsyncIterable):
        async for source in sources:
            yield source
    else:
        for source in sources:
            yield source
