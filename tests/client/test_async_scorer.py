"""The scorer for event loops: the same methods, and what only asyncio has."""

import asyncio
import inspect
import threading
import time

import grpc
import pytest

from ma_agiqa_client import (
    AsyncScorer,
    InvalidImageError,
    RequestCancelledError,
    Retry,
    Scorer,
    ServerUnavailableError,
)
from support.scripted_server import numbers


def public(kind):
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def parameters(method):
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


def test_both_scorers_have_the_same_methods():
    methods = public(Scorer)
    assert set(methods) == {"score", "score_many", "rank", "explain", "model", "health", "close"}
    assert set(public(AsyncScorer)) == set(methods)
    for name, method in methods.items():
        assert parameters(method) == parameters(getattr(AsyncScorer, name)), name
    assert Scorer.__init__ is AsyncScorer.__init__


def test_all_but_the_iterators_are_awaited():
    """`score` reads the image before it returns its coroutine."""
    awaited = {n for n, m in public(AsyncScorer).items() if inspect.iscoroutinefunction(m)}
    assert awaited == set(public(AsyncScorer)) - {"score", "score_many", "explain"}


def run(scripted, scenario, **options):
    async def main():
        async with AsyncScorer(scripted.url, timeout_s=20, **options) as scorer:
            return await scenario(scorer)

    return asyncio.run(main())


def test_scores_equal_those_of_the_other_scorer(scripted):
    async def scenario(scorer):
        return (
            await scorer.health(),
            await scorer.model(),
            await scorer.score(b"25", maps=True),
            [score async for score in scorer.score_many([b"1", b"bad", b"3"])],
            await scorer.rank([b"1", b"9", b"5"], top=2),
        )

    health, card, score, many, ranked = run(scripted, scenario)
    with Scorer(scripted.url) as scorer:
        assert (health, card) == (scorer.health(), scorer.model())
        same = scorer.score(b"25", maps=True)
    assert (score.mos, score.gate, score.percentile) == (same.mos, same.gate, same.percentile)
    assert score.patch_score.shape == (14, 14)
    assert (many[0].mos, many[2].mos) == (1, 3)
    assert isinstance(many[1].error, InvalidImageError)
    assert [one.source for one in ranked] == [b"9", b"5"]


def test_one_channel_is_kept(scripted):
    async def scenario(scorer):
        return [score async for score in scorer.score_many(numbers(40), max_in_flight=8)]

    assert [score.mos for score in run(scripted, scenario)] == list(range(40))
    assert len(scripted.peers) == 1


@pytest.mark.parametrize("ordered", [True, False])
def test_score_many_is_lazy_and_bounded(scripted, ordered):
    taken = 0

    async def endless():
        nonlocal taken
        while True:
            taken += 1
            yield str(taken - 1).encode()

    async def scenario(scorer):
        scores = scorer.score_many(endless(), ordered=ordered, max_in_flight=5)
        for received in range(1, 31):
            score = await anext(scores)
            assert score.index == received - 1 or not ordered
            assert taken <= received + 5
        await scores.aclose()

    run(scripted, scenario)
    assert scripted.most_in_flight <= 5


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


def test_closing_cancels_other_tasks(scripted):
    release = threading.Event()
    scripted.answer = lambda image, context: float(release.wait(20))

    async def scenario(scorer):
        tasks = [asyncio.create_task(scorer.score(b"1")) for _ in range(3)]
        while scripted.in_flight < 3:
            await asyncio.sleep(0.01)
        await scorer.close()
        for task in tasks:
            with pytest.raises(RequestCancelledError):
                await task
        with pytest.raises(RuntimeError, match="closed"):
            await scorer.score(b"1")

    run(scripted, scenario)
    release.set()


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


@pytest.mark.parametrize(
    "call", [lambda s: s.score(b"1"), lambda s: s.model(), lambda s: s.health()]
)
def test_closing_cancels_a_call_that_is_never_answered(call):
    with pytest.raises(RequestCancelledError):
        close_while(call)


def test_closing_ends_score_many_in_another_task():
    async def score_many(scorer):
        return [score async for score in scorer.score_many(numbers(3))]

    errors = [score.error for score in close_while(score_many)]
    assert [type(error) for error in errors] == [RequestCancelledError] * 3


def test_closing_ends_a_long_score_many_too():
    async def score_many(scorer):
        return [score async for score in scorer.score_many(numbers(50), max_in_flight=2)]

    with pytest.raises(RuntimeError, match="closed"):
        close_while(score_many)


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


def test_leaving_the_iterator_cancels_what_is_in_flight(scripted):
    cancelled = threading.Semaphore(0)

    def answer(image, context):
        if image == b"0":
            return 0.0
        context.add_callback(cancelled.release)
        while context.is_active():
            time.sleep(0.01)
        return 1.0

    async def scenario(scorer):
        scores = scorer.score_many(numbers(100), max_in_flight=4)
        await anext(scores)
        while scripted.in_flight < 3:
            await asyncio.sleep(0.01)
        await scores.aclose()
        for _ in range(3):
            assert await asyncio.to_thread(cancelled.acquire, timeout=10)

    scripted.answer = answer
    run(scripted, scenario)
    assert len(scripted.requests) <= 5


def test_unavailable_is_tried_again_within_the_budget(scripted):
    def answer(image, context):
        if len(scripted.requests) <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        if image == b"0":
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return float(image)

    async def scenario(scorer):
        assert (await scorer.score(b"7")).mos == 7
        with pytest.raises(ServerUnavailableError, match="gone"):
            await scorer.score(b"0")

    scripted.answer = answer
    run(scripted, scenario, retry=Retry(budget_s=0.5))


def test_arguments_are_checked_at_the_call(scripted):
    async def scenario(scorer):
        with pytest.raises(TypeError):
            scorer.score_many("a.png")
        with pytest.raises(ValueError, match="max_in_flight"):
            scorer.score_many([], max_in_flight=0)

    run(scripted, scenario)
