"""How both kinds of scorers send, retry and wait, over real gRPC to a scripted server."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading

import grpc
import pytest

from ma_agiqa_client import (
    DeadlineExceededError,
    InvalidImageError,
    Retry,
    Scorer,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
)
from support.scripted_server import GATE, numbers


@pytest.fixture
def scorer(either):
    return either


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
    assert score.gate == GATE
    assert (score.model, score.error) == ("tiny", None)
    assert score.latency_ms > 0
    assert score.patch_score is None
    assert score.patch_weight is None


def test_maps_are_sent_only_on_request(scorer, scripted):
    scorer.score(b"1")
    score = scorer.score(b"1", maps=True)
    asked = [[output.name for output in request.outputs] for request in scripted.requests]
    assert asked == [["SCORE", "GATE"], ["SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT"]]
    assert score.patch_score.shape == score.patch_weight.shape == (14, 14)


@pytest.mark.parametrize(("traffic_class", "sent"), [("interactive", ""), ("bulk", "bulk")])
def test_the_traffic_class_is_sent(kind, scripted, traffic_class, sent):
    with kind(scripted.url, traffic_class=traffic_class) as scorer:
        scorer.score(b"1")
    assert scripted.requests[0].parameters["traffic_class"].string_param == sent


def test_bytes_arrive_untouched(scorer, scripted):
    scripted.answer = lambda image, context: float(len(image))
    assert scorer.score(b"\x00ab\x00\x00").mos == 5
    assert scripted.requests[0].raw_input_contents[0] == b"\5\0\0\0\x00ab\x00\x00"
    assert list(scripted.requests[0].inputs[0].shape) == [1, 1]


def test_the_card_is_asked_for_once_and_one_channel_is_kept(scorer, scripted):
    scorer.score(b"1")
    assert len(list(scorer.score_many(numbers(50), max_in_flight=8))) == 50
    assert scripted.card_requests == 1
    assert len(scripted.peers) == 1


def test_unavailable_is_tried_again(scorer, scripted, no_waiting):
    scripted.answer = failing(grpc.StatusCode.UNAVAILABLE, times=3)
    assert scorer.score(b"1").mos == 7
    assert len(scripted.requests) == 4


def test_unavailable_fails_when_the_budget_is_spent(kind, scripted):
    scripted.answer = failing(grpc.StatusCode.UNAVAILABLE, times=1000)
    with kind(scripted.url, retry=Retry(budget_s=0.3)) as scorer:
        scorer.model()
        with pytest.raises(ServerUnavailableError, match=scripted.url) as caught:
            scorer.score(b"1")
    assert 2 <= len(scripted.requests) <= 10
    assert caught.value.request_id == scripted.requests[-1].id


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


def test_the_deadline_ends_a_call(kind, scripted):
    release = threading.Event()
    scripted.answer = lambda image, context: release.wait(30)
    with kind(scripted.url, timeout_s=0.3) as scorer:
        with pytest.raises(DeadlineExceededError, match=r"within 0\.3 s"):
            scorer.score(b"1")
        assert isinstance(next(scorer.score_many([b"1"])).error, DeadlineExceededError)
    release.set()


def test_retries_stay_within_the_deadline(kind, scripted):
    scripted.answer = failing(grpc.StatusCode.UNAVAILABLE, times=100)
    retry = Retry(initial_backoff_s=5, max_backoff_s=5)
    with kind(scripted.url, timeout_s=20, retry=retry) as scorer:
        scorer.model()
        with pytest.raises(ServerUnavailableError):
            scorer.score(b"1", timeout_s=2)  # less than the shortest first delay
    assert len(scripted.requests) == 1


@pytest.mark.usefixtures("no_waiting")
def test_no_server_at_the_address(kind, no_server):
    with kind(no_server, timeout_s=5) as scorer:
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


def test_scores_can_be_compared_after_the_server_went_away(scorer, scripted, no_waiting):
    scores = list(scorer.score_many([b"1", b"2"]))
    scripted.answer = failing(grpc.StatusCode.UNAVAILABLE, times=4)
    with pytest.raises(ServerUnavailableError):
        scorer.score(b"3")
    with pytest.raises(WrongModelError, match="tiny was not calibrated"):
        scorer._core.compare(*scores)


def test_wrong_model(scorer, scripted):
    del scripted.card["mos_quantiles"]
    with pytest.raises(WrongModelError, match="`mos_quantiles`"):
        scorer.score(b"1")
    with pytest.raises(WrongModelError):
        scorer.model()
    assert scripted.requests == []


def test_a_closed_scorer_says_so(scorer):
    scorer.close()
    scorer.close()
    calls = (lambda: scorer.score(b"1"), lambda: scorer.score_many([b"1"]), scorer.model)
    for call in (*calls, lambda: list(scorer.explain(b"1", "Why?"))):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_arguments_are_checked_at_the_call(scorer):
    with pytest.raises(TypeError, match="Use score for a single image"):
        scorer.score_many("a.png")
    with pytest.raises(ValueError, match="max_in_flight"):
        scorer.score_many([], max_in_flight=0)
    with pytest.raises(ValueError, match="top"):
        scorer.rank([b"1"], top=0)
    for timeout_s in (0, -1, float("nan")):
        for call in (scorer.score, scorer.score_many, scorer.explain):
            with pytest.raises(ValueError, match="timeout_s"):
                call([b"1"], timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"traffic_class": "Bulk"}, "expected interactive or bulk"),
        ({"traffic_class": None}, "expected interactive or bulk"),
        ({"url": "http://localhost:8001"}, "HOST:PORT"),
        ({"max_side": 0}, "max_side"),
        ({"version": 0}, "version"),
    ],
)
def test_options_are_checked_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        Scorer(**options)


FORK = """
import os, sys, threading
from ma_agiqa_client import ClientError, Scorer

scorer = Scorer(sys.argv[1], timeout_s=1)
started = threading.Event()


def busy():
    for _ in range(3):
        for score in scorer.score_many([b"7"] * 200, max_in_flight=8):
            started.set()
            assert score.error or score.mos == 7


def outcome():
    try:
        return scorer.score(b"5").mos == 5
    except ClientError:  # within timeout_s
        return True


threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
started.wait()
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        os._exit(0 if outcome() else 9)
    children.append(child)
    assert outcome()
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
for thread in threads:
    thread.join()
print(scorer.score(b"6").mos)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("support", [{}, {"GRPC_ENABLE_FORK_SUPPORT": "1"}])
def test_a_fork_while_threads_score_never_hangs(scripted, support):
    """In a process of its own. Without Python's support gRPC may abort in a child, by a check."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, scripted.url],
        env={**os.environ, **support},
        capture_output=True,
        text=True,
        timeout=90,
    )
    children, score = done.stdout.splitlines()
    assert (done.returncode, score) == (0, "6.0"), done.stderr
    allowed = {0} if support else {0, -signal.SIGABRT}
    assert {*json.loads(children)} <= allowed, done.stderr
