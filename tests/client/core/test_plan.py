"""What a scorer decides: deadlines, clocks, several servers, headers; over real gRPC."""

import time

import grpc
import pytest

from ma_agiqa_client import (
    AsyncScorer,
    CannotExplainError,
    DeadlineExceededError,
    Retry,
    Scorer,
    WrongModelError,
)
from ma_agiqa_client._core.plan import Core
from ma_agiqa_client.retry import Clock
from support.example_card import CARD, PARAMETERS
from support.scripted_server import ensemble_config, numbers


def test_the_server_is_told_the_deadline(scorer, scripted):
    before = time.time()
    scorer.score(b"1", timeout_s=7)
    deadline_us = scripted.requests[0].parameters["deadline_unix_us"].int64_param
    assert before + 6 < deadline_us / 1e6 <= time.time() + 7


def refuse_expired(clock):
    """Refuse expired requests as the served models do; `clock` gives their Unix time in s."""

    def check(request, context):
        server_us = round(clock() * 1e6)
        if request.parameters["deadline_unix_us"].int64_param < server_us:
            message = f"DEADLINE_EXCEEDED: too late (server clock {server_us} us)."
            context.abort(grpc.StatusCode.CANCELLED, message)

    return check


@pytest.mark.parametrize(("ahead_s", "requests"), [(3600, 2), (-3600, 1)])
def test_a_server_whose_clock_differs_costs_one_request_at_most(
    scorer, scripted, ahead_s, requests
):
    scripted.check = refuse_expired(lambda: time.time() + ahead_s)
    assert scorer.score(b"1", timeout_s=5).mos == 1
    assert len(scripted.requests) == requests
    assert [score.mos for score in scorer.score_many(numbers(5))] == list(range(5))
    assert len(scripted.requests) == requests + 5  # it has learned the difference


def test_a_server_that_refuses_again_ends_the_call(scorer, scripted):
    scripted.check = refuse_expired(lambda: 1e12 + len(scripted.requests) * 1e6)
    with pytest.raises(DeadlineExceededError, match="too late"):
        scorer.score(b"1")
    assert len(scripted.requests) == 2


def test_headers_and_compression_reach_the_server(scripted):
    options = {"token": "secret", "metadata": {"x-team": "images"}, "compression": "gzip"}
    with Scorer(scripted.url, **options) as scorer:
        assert scorer.score(b"1").mos == 1
    assert scripted.headers[0]["authorization"] == "Bearer secret"
    assert scripted.headers[0]["x-team"] == "images"


def test_several_servers_share_the_work(scripted, another):
    def slowly(image, context):
        time.sleep(0.01)
        return float(image)

    scripted.answer = another.answer = slowly
    with Scorer([scripted.url, another.url]) as scorer:
        scores = list(scorer.score_many(numbers(60), max_in_flight=8))
    assert [score.mos for score in scores] == list(range(60))
    assert len(scripted.requests) > 20
    assert len(another.requests) > 20


def test_a_server_stands_in_for_another(scripted, another):
    with Scorer([scripted.url, another.url]) as scorer:
        list(scorer.score_many(numbers(4)))
        scripted.stop()
        assert [score.mos for score in scorer.score_many(numbers(40))] == list(range(40))
        assert scorer.health()
    assert len(another.requests) >= 40


def test_servers_of_different_models_are_not_mixed(scripted, another):
    another.card["checkpoint_sha256"] = "1" * 64
    with Scorer([scripted.url, another.url]) as scorer:
        errors = [score.error for score in scorer.score_many(numbers(8), max_in_flight=2)]
    wrong = [error for error in errors if error]
    assert wrong
    assert all(isinstance(error, WrongModelError) for error in wrong)
    assert "different models" in str(wrong[0])


def test_servers_that_all_change_their_model_are_followed(scripted, another, monkeypatch):
    """As after an activation: each card is asked for again once it is old."""
    with Scorer([scripted.url, another.url]) as scorer:
        assert not any(score.error for score in scorer.score_many(numbers(8), max_in_flight=2))
        monkeypatch.setattr("ma_agiqa_client._core.plan._CARD_AGE_S", 0)
        scripted.card["checkpoint_sha256"] = another.card["checkpoint_sha256"] = "1" * 64
        assert not any(score.error for score in scorer.score_many(numbers(8), max_in_flight=2))
        another.card["checkpoint_sha256"] = "2" * 64
        errors = [score.error for score in scorer.score_many(numbers(8), max_in_flight=2)]
    assert any(isinstance(error, WrongModelError) for error in errors)


def test_a_server_may_be_forgotten_while_others_are_compared():
    """By another thread, which got no answer from it."""

    class Forgotten(int):
        def __ne__(self, other):
            core._cards.pop(self, None)
            return super().__ne__(other)

    core = Core(["a", "b", "c"], Retry())
    core._cards = {Forgotten(1): (CARD, 0.0), Forgotten(2): (CARD, 0.0)}
    plan = core.model(Clock(60))
    next(plan)
    with pytest.raises(StopIteration) as end:
        plan.send(ensemble_config(PARAMETERS))
    assert end.value.value == CARD


def test_a_given_transport_is_not_bypassed_to_explain(scripted):
    for make in (Scorer, AsyncScorer):
        scorer = make(scripted.url, transport=object())
        with pytest.raises(CannotExplainError, match=f"This {make.__name__} was given a transport"):
            scorer.explain(b"1", "Why?")


def test_a_version_that_is_not_kept_is_named(scripted):
    scripted.cards["ma_agiqa_v9"] = None
    with Scorer(scripted.url, version=9) as scorer:
        for call in (scorer.model, lambda: scorer.score(b"1")):
            with pytest.raises(WrongModelError, match=r"`ma_agiqa_v9`.*export/to_triton\.py list"):
                call()
