"""How a scorer sends, retries, waits and orders, over real gRPC to a scripted server."""

import itertools
import socket
import threading
import time

import grpc
import numpy as np
import pytest

from ma_agiqa_client import (
    DeadlineExceededError,
    Gate,
    InvalidImageError,
    Scorer,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client._images import encode_image


@pytest.fixture
def scorer(scripted):
    with Scorer(scripted.url, timeout_s=20) as scorer:
        yield scorer


def numbers(count):
    return [str(number).encode() for number in range(count)]


def failing(status, times):
    """Answer the first `times` requests with a status, the others with 7."""
    count = itertools.count()

    def answer(image, context):
        if next(count) < times:
            context.abort(status, "first line\nTraceback: /opt/models/secret.py")
        return 7.0

    return answer


def test_score_carries_every_number_of_the_answer(scorer):
    score = scorer.score(b"25")
    assert (score.mos, score.normalized, score.percentile) == (25.0, 0.25, 25.0)
    assert score.gate == Gate(semantic=0.25, coherence=0.25, quality=0.5)
    assert (score.model, score.error) == ("tiny", None)
    assert score.latency_ms > 0
    assert score.patch_score is None
    assert score.patch_weight is None


def test_maps_travel_only_on_request(scorer, scripted):
    scorer.score(b"1")
    score = scorer.score(b"1", maps=True)
    asked = [[output.name for output in request.outputs] for request in scripted.requests]
    assert asked == [["SCORE", "GATE"], ["SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT"]]
    assert score.patch_score.shape == score.patch_weight.shape == (14, 14)


def test_bytes_arrive_untouched(scorer, scripted):
    scripted.answer = lambda image, context: float(len(image))
    assert scorer.score(b"\x00ab\x00\x00").mos == 5
    assert scripted.requests[0].raw_input_contents[0][4:] == b"\x00ab\x00\x00"
    assert list(scripted.requests[0].inputs[0].shape) == [1, 1]


def test_the_card_is_asked_for_once_and_one_channel_is_kept(scorer, scripted):
    scorer.score(b"1")
    assert len(list(scorer.score_many(numbers(50), max_in_flight=8))) == 50
    assert scripted.card_requests == 1
    assert len(scripted.peers) == 1


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


def test_score_many_is_lazy(scorer):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield str(taken - 1).encode()

    scores = scorer.score_many(endless(), max_in_flight=5)
    assert taken == 0
    for number in range(20):
        assert next(scores).mos == number
        assert taken <= number + 1 + 5
    scores.close()


def test_score_many_sends_one_image_per_request(scorer, scripted):
    list(scorer.score_many(numbers(9)))
    assert sorted(r.raw_input_contents[0][4:] for r in scripted.requests) == numbers(9)


def test_a_failure_belongs_to_its_image(scorer):
    images = [b"1", b"bad", b"2", np.zeros((2, 2), np.int64), b"3"]
    scores = list(scorer.score_many(images, max_in_flight=2))
    assert [score.mos for score in scores] == [1, None, 2, None, 3]
    assert str(scores[1].error) == "Not a number. Send digits."
    assert isinstance(scores[3].error, InvalidImageError)
    assert scores[1].gate is scores[1].normalized is scores[1].percentile is None


def test_an_array_may_be_overwritten_for_the_next_image(scorer, scripted):
    release = threading.Event()

    def answer(image, context):
        release.wait(10)
        return float(image[-1])

    def reused():
        pixels = np.zeros((1, 1, 3), np.uint8)
        for value in range(4):
            pixels[:] = value
            yield pixels
        release.set()

    scripted.answer = answer
    assert [score.mos for score in scorer.score_many(reused(), max_in_flight=5)] == [0, 1, 2, 3]


def test_unavailable_is_tried_again(scorer, scripted, no_waiting):
    scripted.answer = failing(grpc.StatusCode.UNAVAILABLE, times=3)
    assert scorer.score(b"1").mos == 7
    assert len(scripted.requests) == 4
    assert len(no_waiting) == 3
    assert no_waiting == sorted(no_waiting)


def test_unavailable_is_given_up_after_three_retries(scorer, scripted, no_waiting):
    scripted.answer = failing(grpc.StatusCode.UNAVAILABLE, times=100)
    with pytest.raises(ServerUnavailableError, match=scripted.url):
        scorer.score(b"1")
    assert len(scripted.requests) == 4


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidImageError),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServerError),
        (grpc.StatusCode.NOT_FOUND, WrongModelError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
    ],
)
def test_nothing_else_is_tried_again(scorer, scripted, status, expected):
    scripted.answer = failing(status, times=1)
    with pytest.raises(expected) as caught:
        scorer.score(b"1")
    assert len(scripted.requests) == 1
    assert "secret" not in str(caught.value)


def test_the_deadline_ends_a_call(scripted):
    release = threading.Event()
    scripted.answer = lambda image, context: release.wait(30)
    with Scorer(scripted.url, timeout_s=0.3) as scorer:
        with pytest.raises(DeadlineExceededError, match=r"within 0\.3 s"):
            scorer.score(b"1")
        assert isinstance(next(scorer.score_many([b"1"])).error, DeadlineExceededError)
    release.set()


def test_retries_stay_within_the_deadline(scripted):
    scripted.answer = failing(grpc.StatusCode.UNAVAILABLE, times=100)
    with Scorer(scripted.url, timeout_s=20) as scorer:
        scorer.model()
        with pytest.raises(ServerUnavailableError):
            scorer.score(b"1", timeout_s=0.09)  # less than the shortest first delay
    assert len(scripted.requests) == 1


def test_nobody_at_the_address(no_waiting):
    with socket.socket() as taken:  # bound but not listening: refuses connections
        taken.bind(("127.0.0.1", 0))
        with Scorer(f"127.0.0.1:{taken.getsockname()[1]}", timeout_s=5) as scorer:
            assert not scorer.health()
            with pytest.raises(ServerUnavailableError, match="Check that it runs"):
                scorer.score(b"1")
            assert isinstance(next(scorer.score_many([b"1"])).error, ServerUnavailableError)


def test_a_server_that_went_away_is_asked_again_what_it_serves(scorer, scripted, no_waiting):
    scorer.score(b"1")
    scripted.answer = failing(grpc.StatusCode.UNAVAILABLE, times=4)
    with pytest.raises(ServerUnavailableError):
        scorer.score(b"1")
    scripted.card["name"] = "another"
    assert scorer.score(b"1").model == "another"


def test_wrong_model(scorer, scripted):
    del scripted.card["mos_quantiles"]
    with pytest.raises(WrongModelError, match="`mos_quantiles`"):
        scorer.score(b"1")
    with pytest.raises(WrongModelError):
        scorer.model()
    assert scripted.requests == []


def test_health(scorer):
    assert scorer.health()


def test_a_score_that_is_not_finite_is_an_error(scorer, scripted):
    scripted.answer = lambda image, context: float("nan")
    with pytest.raises(ServerError, match="SCORE"):
        scorer.score(b"1")


def test_arrays_travel_as_ppm(scorer, scripted):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    scripted.answer = lambda image, context: float(image == encode_image(pixels))
    assert scorer.score(pixels).mos == 1


def test_a_closed_scorer_says_so(scripted):
    scorer = Scorer(scripted.url)
    scorer.close()
    scorer.close()
    with pytest.raises(RuntimeError, match="closed"):
        scorer.score(b"1")
    with pytest.raises(RuntimeError, match="closed"):
        scorer.score_many([b"1"])


@pytest.mark.parametrize("url", ["http://localhost:8001", "https://example.org:8001", ""])
def test_an_address_that_is_not_grpc_is_refused(url):
    with pytest.raises(ValueError, match="HOST:PORT"):
        Scorer(url)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_timeout_must_be_positive(timeout_s):
    with pytest.raises(ValueError, match="timeout_s"):
        Scorer("localhost:8001", timeout_s=timeout_s)


def test_the_bound_must_be_positive(scorer):
    with pytest.raises(ValueError, match="max_in_flight"):
        scorer.score_many([], max_in_flight=0)
