"""Requests, answers and failures, without any input or output."""

import numpy as np
import pytest

from ma_agiqa_client import (
    AuthenticationError,
    DeadlineExceededError,
    InvalidImageError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client._core import protocol
from support.example_card import CARD, PARAMETERS
from support.scripted_server import Tensors, ensemble_config


def answer(**changes):
    return Tensors({"SCORE": [[25]], "GATE": [[3, -1, 0]]} | changes)


def read(result, maps=False):
    return protocol.read_score(
        result, CARD, source="a.png", index=4, latency_ms=12.5, maps=maps, request_id="id"
    )


def test_maps_lose_their_batch_dimension():
    maps = {"PATCH_SCORE": np.full((1, 14, 14), 2), "PATCH_WEIGHT": np.full((1, 14, 14), 0.5)}
    score = read(answer(**maps), maps=True)
    np.testing.assert_array_equal(score.patch_score, np.full((14, 14), 2))
    np.testing.assert_array_equal(score.patch_weight, np.full((14, 14), 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SCORE": [2.5]}, r"has shape \(1,\); expected \(1, 1\)"),
        ({"SCORE": [[2.5], [2.5]]}, "has shape .* expected"),
        ({"GATE": [[1, 1]]}, "has shape .* expected"),
        ({"SCORE": np.empty((0, 1))}, "has shape .* expected"),
        ({}, "PATCH_SCORE has shape None"),
        ({"SCORE": [[np.nan]]}, "SCORE contains values that are not finite"),
        ({"GATE": [[1, np.inf, 1]]}, "GATE contains values that are not finite"),
    ],
)
def test_an_answer_with_other_tensors_is_an_error(changes, message):
    with pytest.raises(ServerError, match=message):
        read(answer(**changes), maps=True)


@pytest.mark.parametrize("tensor", ["IMAGE", "SCORE", "GATE"])
def test_a_model_with_other_tensors_is_the_wrong_one(tensor):
    tensors = {"IMAGE"} - {tensor}, {"SCORE", "GATE"} - {tensor}
    config = ensemble_config(PARAMETERS, *tensors)
    with pytest.raises(WrongModelError, match="expected IMAGE in and SCORE, GATE out"):
        protocol.read_card(config)


RESTRICTED = "This protocol is restricted, expecting header 'triton-grpc-protocol-closed'"
LATE = "in ensemble 'ma_agiqa', DEADLINE_EXCEEDED: too late (server clock 123 us)."
UNLOADED = "Request for unknown model: 'ma_agiqa' has no available versions"
DEAD = "in ensemble 'ma_agiqa', Stub process 'mplug_owl2_0_0' is not healthy."


@pytest.mark.parametrize(
    ("status", "message", "expected", "said"),
    [
        ("INVALID_ARGUMENT", "Send more.", InvalidImageError, "Send more."),
        (
            "INVALID_ARGUMENT",
            "unexpected inference output 'INTERVAL' for model 'ma_agiqa'",
            WrongModelError,
            "host:8001 has another model than a moment ago",
        ),
        ("UNAVAILABLE", "Gone.", ServerUnavailableError, "certificates"),
        ("DEADLINE_EXCEEDED", "", DeadlineExceededError, "within 2 s"),
        ("NOT_FOUND", "No.", WrongModelError, "does not serve the model `ma_agiqa`: No."),
        ("UNIMPLEMENTED", "", WrongModelError, "no reason given"),
        (
            "INTERNAL",
            "It broke.\n  File /opt/models/model.py",
            ServerError,
            "It broke. See its log",
        ),
        ("CANCELLED", "By you.", RequestCancelledError, "By you."),
        ("UNAUTHENTICATED", "Who?", AuthenticationError, "Who?. Check the token"),
        ("PERMISSION_DENIED", "No.", AuthenticationError, "Check the token"),
        # What Triton says by a status that means something else.
        ("UNAVAILABLE", RESTRICTED, AuthenticationError, "restricted"),
        ("CANCELLED", "CANCELLED", ServerUnavailableError, "shut down while the request was in"),
        ("CANCELLED", LATE, DeadlineExceededError, "too late"),
        ("NOT_FOUND", UNLOADED, ServerUnavailableError, "no available versions"),
        ("INTERNAL", DEAD, ServerUnavailableError, "not healthy"),
    ],
)
def test_each_failure_has_its_error(status, message, expected, said):
    error = protocol.to_client_error(f"StatusCode.{status}", message, "host:8001", 2.0)
    assert type(error) is expected
    assert said in str(error)
    assert not any(hidden in str(error) for hidden in ("/opt", "in ensemble", "to_triton"))


def test_the_servers_sentence_comes_without_tritons_wrapping():
    wrapped = "[request id: <id_unknown>] in ensemble 'ma_agiqa', The image is empty. Send more."
    error = protocol.to_client_error("StatusCode.INVALID_ARGUMENT", wrapped, "host:8001", 2.0)
    assert str(error) == "The image is empty. Send more."


def test_the_refusal_of_an_expired_request_tells_the_time():
    assert protocol.server_clock_us(LATE) == 123
    assert protocol.server_clock_us("Cancelled by the user") is None
