"""Many images at once, by both kinds of scorers: order, bounds, failures and cancellation."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import torch

from ma_agiqa_client import (
    Failure,
    InvalidImageError,
    RequestCancelledError,
    Retry,
    ServerUnavailableError,
)
from support.scripted_server import numbers, read_number
from support.waiting import wait_until


@pytest.fixture
def scorer(either):
    return either


def mos(outcome):
    return None if outcome.error else outcome.mos


def unavailable(image, context):
    context.abort(grpc.StatusCode.UNAVAILABLE, "overloaded")


def test_score_many_keeps_the_order_of_unequal_answers(scorer, scripted):
    def answer(image, context):
        time.sleep(0.02 * (int(image) % 4 == 0))
        return float(image)

    scripted.answer = answer
    scores = list(scorer.score_many(numbers(60), max_in_flight=8))
    assert [score.mos for score in scores] == list(range(60))


def test_score_many_fills_and_never_exceeds_the_bound(scorer, scripted):
    everyone = threading.Barrier(4, timeout=10)  # breaks unless four requests are there at once

    def answer(image, context):
        everyone.wait()
        return float(image)

    scripted.answer = answer
    scores = list(scorer.score_many(numbers(12), max_in_flight=4))
    assert [score.mos for score in scores] == list(range(12))
    assert scripted.most_in_flight == 4
    assert len(scripted.requests) == 12  # one image in each


@pytest.mark.parametrize("ordered", [True, False])
def test_score_many_is_lazy_and_bounded(scorer, ordered):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield str(taken - 1).encode()

    scores = scorer.score_many(endless(), ordered=ordered, max_in_flight=5)
    assert taken == 0
    for received in range(1, 21):
        score = next(scores)
        assert score.mos == received - 1 or not ordered
        assert taken <= received + 5
    scores.close()


def test_a_failure_belongs_to_its_image(scorer):
    images = [b"1", b"bad", b"2", np.zeros((2, 2), np.int64), b"3"]
    scores = list(scorer.score_many(images, max_in_flight=2))
    assert [mos(score) for score in scores] == [1, None, 2, None, 3]
    assert isinstance(scores[1], Failure)
    assert str(scores[1].error) == "Not a number. Send digits."
    assert (scores[1].source, scores[1].index, scores[1].model) == (b"bad", 1, "tiny")
    assert scores[1].latency_ms > 0
    assert isinstance(scores[3].error, InvalidImageError)


def test_as_they_come(scorer, scripted):
    last = threading.Event()

    def answer(image, context):
        if image == b"0":
            last.wait(10)
        return float(image)

    scripted.answer = answer
    scores = scorer.score_many(numbers(9), ordered=False, max_in_flight=3)
    early = [next(scores).index for _ in range(8)]
    last.set()
    assert sorted(early) == list(range(1, 9))
    assert [score.index for score in scores] == [0]


def test_closing_the_iterator_cancels_what_is_in_flight(scorer, scripted):
    arrived, cancelled = threading.Semaphore(0), threading.Semaphore(0)

    def answer(image, context):
        if image == b"0":
            return 0.0
        context.add_callback(cancelled.release)
        arrived.release()
        while context.is_active():
            time.sleep(0.01)
        return 1.0

    scripted.answer = answer
    scores = scorer.score_many(numbers(100), max_in_flight=4)
    next(scores)
    for _ in range(3):
        assert arrived.acquire(timeout=10)
    scores.close()
    for _ in range(3):
        assert cancelled.acquire(timeout=10)
    assert len(scripted.requests) <= 5


def test_closing_the_scorer_cancels_calls_on_other_threads(scorer, scripted):
    release = threading.Event()
    scripted.answer = lambda image, context: float(release.wait(20))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(scorer.score, b"1") for _ in range(4)]
        wait_until(lambda: scripted.in_flight == 4)
        scorer.close()
        for call in calls:
            with pytest.raises(RequestCancelledError):
                call.result(10)
    release.set()


def test_closing_the_scorer_ends_a_wait_for_the_server(kind, scripted):
    scripted.answer = unavailable
    retry = Retry(initial_backoff_s=50, max_backoff_s=50, budget_s=100)
    with kind(scripted.url, timeout_s=200, retry=retry) as scorer, ThreadPoolExecutor(1) as pool:
        scorer.model()
        call = pool.submit(scorer.score, b"1")
        wait_until(lambda: scripted.requests)
        scorer.close()
        with pytest.raises(RequestCancelledError):
            call.result(10)


def test_a_thousand_images_share_one_budget(kind, scripted):
    scripted.answer = unavailable
    with kind(scripted.url, retry=Retry(budget_s=0.3)) as scorer:
        scorer.model()
        scores = list(scorer.score_many(numbers(1000), max_in_flight=4))
    assert all(isinstance(score.error, ServerUnavailableError) for score in scores)
    assert len(scripted.requests) < 1100  # one try each once the outage has lasted for too long


def test_a_failing_source_is_the_callers_error(scorer):
    def sources():
        yield b"1"
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(scorer.score_many(sources()))


def test_rank(scorer, scripted):
    images = [b"3", b"bad", b"9", b"5"]
    ranked = scorer.rank(images)
    assert [score.source for score in ranked] == [b"9", b"5", b"3", b"bad"]
    assert [score.index for score in scorer.rank(images, top=2)] == [2, 3]
    with pytest.raises(InvalidImageError, match="Send digits") as caught:
        scorer.rank([b"first", b"second"])
    ids = {request.raw_input_contents[0][4:]: request.id for request in scripted.requests}
    assert caught.value.request_id == ids[b"first"]


def test_rank_puts_a_negative_mos_above_a_failure(scorer, scripted):
    scripted.answer = lambda image, context: -read_number(image, context)
    assert [score.source for score in scorer.rank([b"bad", b"2", b"1"])] == [b"1", b"2", b"bad"]
    assert scorer.rank([]) == []


def test_a_batch_is_iterated(scorer, scripted):
    batch = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)
    scripted.answer = lambda image, context: float(image[-1])
    for several in (batch, torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())):
        assert [score.mos for score in scorer.score_many(several)] == [11, 23, 35]


def test_many_threads_share_a_scorer(scorer):
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(lambda: list(scorer.score_many(numbers(40)))) for _ in range(8)]
        for run in runs:
            assert [score.mos for score in run.result()] == list(range(40))


def test_every_request_has_an_id_of_its_own(scorer, scripted):
    scores = [scorer.score(b"1"), *scorer.score_many([b"2", b"bad"])]
    ids = [score.request_id for score in scores]
    assert sorted(ids) == sorted(request.id for request in scripted.requests)
    assert len(set(ids)) == 3
