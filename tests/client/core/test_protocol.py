"""Requests, answers and failures, without any input or output."""

import numpy as np
import pytest

from ma_agiqa_client import (
    AuthenticationError,
    DeadlineExceededError,
    Gate,
    InvalidImageError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client._core import protocol
from support.example_card import CARD, PARAMETERS
from support.scripted_server import ensemble_config


class Answer(dict):
    def as_numpy(self, name):
        return self.get(name)


def answer(**changes):
    tensors = {"SCORE": [[25]], "GATE": [[3, -1, 0]]} | changes
    return Answer({name: np.asarray(value, np.float32) for name, value in tensors.items()})


def error(status, message="Something."):
    return protocol.to_client_error(f"StatusCode.{status}", message, "host:8001", 2.0)


def read(result, maps=False):
    return protocol.read_score(
        result, CARD, source="a.png", index=4, latency_ms=12.5, maps=maps, request_id="id"
    )


def test_a_request_holds_the_bytes_the_id_and_the_deadline():
    request = protocol.InferRequest(b"a\0\0", maps=False, request_id="id", deadline_unix_us=12)
    tensor = request.inputs[0]
    assert (tensor.name(), tensor.shape(), tensor.datatype()) == ("IMAGE", [1, 1], "BYTES")
    assert tensor._get_content() == b"\3\0\0\0a\0\0"
    assert [output.name() for output in request.outputs] == ["SCORE", "GATE"]
    assert request.parameters == {"deadline_unix_us": 12}
    message = request.message("ma_agiqa")
    assert (message.model_name, message.id) == ("ma_agiqa", "id")
    assert list(message.raw_input_contents) == [tensor._get_content()]
    assert [output.name for output in message.outputs] == ["SCORE", "GATE"]
    assert message.parameters["deadline_unix_us"].int64_param == 12


def test_a_request_that_can_wait_says_so():
    request = protocol.InferRequest(b"a", False, "id", 12, "bulk")
    assert request.parameters == {"deadline_unix_us": 12, "traffic_class": "bulk"}
    parameters = request.message("ma_agiqa").parameters
    assert parameters["traffic_class"].string_param == "bulk"
    assert parameters["deadline_unix_us"].int64_param == 12


def test_an_answer_is_read():
    score = read(answer())
    assert (score.source, score.index, score.request_id) == ("a.png", 4, "id")
    assert (score.mos, score.normalized, score.percentile) == (25, 0.25, 25)
    assert score.gate == Gate(semantic=0.75, coherence=0.25, quality=0)
    assert (score.latency_ms, score.model, score.patch_score) == (12.5, "tiny", None)


def test_maps_lose_their_batch_dimension():
    maps = {"PATCH_SCORE": np.full((1, 14, 14), 2), "PATCH_WEIGHT": np.full((1, 14, 14), 0.5)}
    score = read(answer(**maps), maps=True)
    np.testing.assert_array_equal(score.patch_score, np.full((14, 14), 2))
    np.testing.assert_array_equal(score.patch_weight, np.full((14, 14), 0.5))


@pytest.mark.parametrize(
    "changes",
    [{"SCORE": [2.5]}, {"SCORE": [[2.5], [2.5]]}, {"GATE": [[1, 1]]}, {"SCORE": np.empty((0, 1))}],
)
def test_an_answer_of_another_shape_is_an_error(changes):
    with pytest.raises(ServerError, match=r"has shape .* expected"):
        read(answer(**changes), maps=False)


def test_a_missing_output_is_an_error():
    with pytest.raises(ServerError, match="PATCH_SCORE has shape None"):
        read(answer(), maps=True)


def test_numbers_that_are_not_finite_are_an_error():
    with pytest.raises(ServerError, match="GATE"):
        read(answer(GATE=[[1, np.inf, 1]]), maps=False)


@pytest.mark.parametrize("tensor", ["IMAGE", "SCORE", "GATE"])
def test_a_model_with_other_tensors_is_the_wrong_one(tensor):
    tensors = {"IMAGE"} - {tensor}, {"SCORE", "GATE"} - {tensor}
    config = ensemble_config(PARAMETERS, *tensors)
    with pytest.raises(WrongModelError, match="expected IMAGE in and SCORE, GATE out"):
        protocol.read_card(config)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("INVALID_ARGUMENT", InvalidImageError),
        ("UNAVAILABLE", ServerUnavailableError),
        ("DEADLINE_EXCEEDED", DeadlineExceededError),
        ("NOT_FOUND", WrongModelError),
        ("UNIMPLEMENTED", WrongModelError),
        ("INTERNAL", ServerError),
        ("CANCELLED", RequestCancelledError),
        ("UNAUTHENTICATED", AuthenticationError),
        ("PERMISSION_DENIED", AuthenticationError),
    ],
)
def test_each_status_has_its_error(status, expected):
    assert type(error(status)) is expected


def test_the_servers_sentence_comes_without_tritons_wrapping():
    wrapped = "[request id: <id_unknown>] in ensemble 'ma_agiqa', The image is empty. Send more."
    assert str(error("INVALID_ARGUMENT", wrapped)) == "The image is empty. Send more."


def test_a_traceback_is_not_passed_on():
    text = str(error("INTERNAL", "It broke.\n  File /opt/models/model.py, line 3"))
    assert "It broke" in text
    assert "/opt" not in text


def test_a_service_that_is_closed_is_not_waited_for():
    message = "This protocol is restricted, expecting header 'triton-grpc-protocol-closed'"
    assert type(error("UNAVAILABLE", message)) is AuthenticationError


def test_a_request_that_the_servers_end_cancels_is_sent_again():
    assert type(error("CANCELLED", "CANCELLED")) is ServerUnavailableError
    assert "shut down while the request was in flight" in str(error("CANCELLED", "CANCELLED"))


def test_a_model_that_is_being_loaded_or_unloaded_is_waited_for():
    message = "Request for unknown model: 'ma_agiqa' has no available versions"
    assert type(error("NOT_FOUND", message)) is ServerUnavailableError


def test_a_missing_version_is_named_with_the_way_to_those_that_are_kept():
    said = "Request for unknown model: 'ma_agiqa_v9' is not found"
    text = str(protocol.to_client_error("StatusCode.NOT_FOUND", said, "host:8001", 2.0, version=9))
    assert "does not serve the model `ma_agiqa_v9`" in text
    assert "`python export/to_triton.py list`" in text
    active = str(error("NOT_FOUND"))
    assert "does not serve the model `ma_agiqa`" in active
    assert "to_triton" not in active


@pytest.mark.parametrize("status", ["UNAVAILABLE", "UNAUTHENTICATED"])
def test_certificates_are_a_matter_of_the_connection_alone(status):
    assert ("certificate" in str(error(status))) == (status == "UNAVAILABLE")


def test_the_refusal_of_an_expired_request_is_a_deadline_and_tells_the_time():
    message = "in ensemble 'ma_agiqa', DEADLINE_EXCEEDED: too late (server clock 123 us)."
    assert type(error("CANCELLED", message)) is DeadlineExceededError
    assert protocol.server_clock_us(message) == 123
    assert protocol.server_clock_us("Cancelled by the user") is None


def test_a_dead_stub_is_an_outage_that_is_waited_out():
    message = "in ensemble 'ma_agiqa', Stub process 'mplug_owl2_0_0' is not healthy."
    assert isinstance(error("INTERNAL", message), ServerUnavailableError)
