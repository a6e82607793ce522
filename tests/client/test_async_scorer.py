"""The scorer for event loops: the same methods, and what only asyncio has."""

import asyncio
import inspect
import threading
import time

import pytest

from ma_agiqa_client import (
    AsyncScorer,
    RequestCancelledError,
    Scorer,
)
from support.scripted_server import numbers


def public(kind):
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def parameters(method):
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


def test_both_scorers_have_the_same_methods():
    methods = public(Scorer)
    scoring, asking = {"score", "score_many", "rank", "compare"}, {"explain", "model", "health"}
    assert set(methods) == scoring | asking | {"close"}
    assert set(public(AsyncScorer)) == set(methods)
    for name, method in methods.items():
        assert parameters(method) == parameters(getattr(AsyncScorer, name)), name
    assert Scorer.__init__ is AsyncScorer.__init__


def test_all_but_the_iterators_are_awaited():
    """`score` reads the image before it returns its coroutine."""
    awaited = {n for n, m in public(AsyncScorer).items() if inspect.iscoroutinefunction(m)}
    assert awaited == set(public(AsyncScorer)) - {"score", "score_many", "explain"}


def run(scripted, scenario):
    async def main():
        async with AsyncScorer(scripted.url, timeout_s=20) as scorer:
            return await scenario(scorer)

    return asyncio.run(main())


def test_scores_are_given_while_an_asynchronous_source_is_slow(scripted):
    async def scenario(scorer):
        given = asyncio.Event()

        async def source():
            yield b"1"
            await asyncio.wait_for(given.wait(), 10)
            yield b"2"

        received = []
        async for score in scorer.score_many(source()):
            received.append(score.mos)
            given.set()
        return received

    assert run(scripted, scenario) == [1, 2]


def test_a_failing_source_is_the_callers_error(scripted):
    async def source():
        yield b"1"
        raise OSError("disk")

    async def scenario(scorer):
        with pytest.raises(OSError, match="disk"):
            _ = [score async for score in scorer.score_many(source())]

    run(scripted, scenario)


def test_cancelling_a_task_tells_the_server(scripted):
    arrived, cancelled = threading.Event(), threading.Event()

    def answer(image, context):
        context.add_callback(cancelled.set)
        arrived.set()
        while context.is_active():
            time.sleep(0.01)
        return 1.0

    async def scenario(scorer):
        task = asyncio.create_task(scorer.score(b"1"))
        assert await asyncio.to_thread(arrived.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cancelled.wait, 10)

    scripted.answer = answer
    run(scripted, scenario)


class Silent:
    """A transport that never answers."""

    def __init__(self):
        self.asked = asyncio.Event()

    async def never(self, *arguments):
        self.asked.set()
        await asyncio.Event().wait()

    infer = model_config = model_ready = never

    async def close(self):
        pass


def close_while(call):
    """Close the scorer while `call` waits for a transport; return what `call` returns."""

    async def main():
        transport = Silent()
        scorer = AsyncScorer("localhost:1", transport=transport)
        task = asyncio.create_task(call(scorer))
        await asyncio.wait_for(transport.asked.wait(), 10)
        await scorer.close()
        return await asyncio.wait_for(task, 10)

    return asyncio.run(main())


async def score_many(scorer):
    return [score async for score in scorer.score_many(numbers(50), max_in_flight=2)]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda scorer: scorer.score(b"1"), RequestCancelledError),
        (lambda scorer: scorer.health(), RequestCancelledError),
        (score_many, RuntimeError),  # of an image after the first two
    ],
)
def test_closing_ends_a_call_that_is_never_answered(call, error):
    with pytest.raises(error, match="closed"):
        close_while(call)


def test_a_task_that_is_cancelled_from_outside_ends_score_many():
    class Cancelling(Silent):
        async def model_config(self, timeout_s):
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    async def main():
        async with AsyncScorer("localhost:1", transport=Cancelling()) as scorer:
            return [score async for score in scorer.score_many([b"1"])]

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asyncio.wait_for(main(), 10))


def test_nothing_is_sent_once_the_scorer_is_closed(scripted, monkeypatch):
    """The scorer is closed while a file is being read."""
    began, release = threading.Event(), threading.Event()

    def read_slowly(*_):
        began.set()
        release.wait(10)
        return b"1"

    monkeypatch.setattr("ma_agiqa_client._wire.images.read_file", read_slowly)

    async def scenario(scorer):
        task = asyncio.create_task(scorer.score("slow.png"))
        assert await asyncio.to_thread(began.wait, 10)
        await scorer.close()
        release.set()
        with pytest.raises(RequestCancelledError):
            await task

    run(scripted, scenario)
    assert scripted.card_requests == len(scripted.requests) == 0
