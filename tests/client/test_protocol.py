"""Requests, answers and failures, without any input or output."""

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2

from ma_agiqa_client import (
    DeadlineExceededError,
    Gate,
    InvalidImageError,
    ModelCard,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
    _protocol,
)

CARD = ModelCard(
    name="tiny",
    preset="demo",
    dataset="synthetic",
    mos_min=0.0,
    mos_max=5.0,
    metrics={},
    mos_quantiles=tuple(percent / 20 for percent in range(101)),
    checkpoint_sha256="",
    created="",
    gate_activation="none",
)


class Answer(dict):
    def as_numpy(self, name):
        return self.get(name)


def answer(**changes):
    tensors = {"SCORE": [[2.5]], "GATE": [[3, -1, 0]]} | changes
    return Answer({name: np.asarray(value, np.float32) for name, value in tensors.items()})


def error(status, message="Something."):
    return _protocol.to_client_error(f"StatusCode.{status}", message, "host:8001", 2.0)


def test_an_answer_is_read():
    score = _protocol.read_score(answer(), CARD, 12.5, maps=False)
    assert (score.mos, score.normalized, score.percentile) == (2.5, 0.5, 50.0)
    assert score.gate == Gate(semantic=0.75, coherence=0.25, quality=0)
    assert (score.latency_ms, score.model, score.patch_score) == (12.5, "tiny", None)


def test_maps_lose_their_batch_dimension():
    maps = {"PATCH_SCORE": np.full((1, 14, 14), 2), "PATCH_WEIGHT": np.full((1, 14, 14), 0.5)}
    score = _protocol.read_score(answer(**maps), CARD, 1.0, maps=True)
    np.testing.assert_array_equal(score.patch_score, np.full((14, 14), 2))
    np.testing.assert_array_equal(score.patch_weight, np.full((14, 14), 0.5))


@pytest.mark.parametrize(
    "changes",
    [{"SCORE": [2.5]}, {"SCORE": [[2.5], [2.5]]}, {"GATE": [[1, 1]]}, {"SCORE": np.empty((0, 1))}],
)
def test_an_answer_of_another_shape_is_an_error(changes):
    with pytest.raises(ServerError, match=r"has shape .* expected"):
        _protocol.read_score(answer(**changes), CARD, 1.0, maps=False)


def test_a_missing_output_is_an_error():
    with pytest.raises(ServerError, match="PATCH_SCORE has shape None"):
        _protocol.read_score(answer(), CARD, 1.0, maps=True)


def test_numbers_that_are_not_finite_are_an_error():
    with pytest.raises(ServerError, match="GATE"):
        _protocol.read_score(answer(GATE=[[1, np.inf, 1]]), CARD, 1.0, maps=False)


@pytest.mark.parametrize("tensor", ["IMAGE", "SCORE", "GATE"])
def test_a_model_with_other_tensors_is_the_wrong_one(tensor):
    config = model_config_pb2.ModelConfig(name="ma_agiqa")
    for name in {"IMAGE"} - {tensor}:
        config.input.add(name=name)
    for name in {"SCORE", "GATE"} - {tensor}:
        config.output.add(name=name)
    with pytest.raises(WrongModelError, match="expected IMAGE in and SCORE, GATE out"):
        _protocol.read_card(config)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("INVALID_ARGUMENT", InvalidImageError),
        ("UNAVAILABLE", ServerUnavailableError),
        ("DEADLINE_EXCEEDED", DeadlineExceededError),
        ("NOT_FOUND", WrongModelError),
        ("UNIMPLEMENTED", WrongModelError),
        ("INTERNAL", ServerError),
        ("CANCELLED", ServerError),
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


def test_only_unavailable_is_retried_three_times_later_and_later():
    lost = error("UNAVAILABLE")
    delays = [_protocol.retry_delay_s(lost, tries, 60, jitter=1) for tries in (1, 2, 3, 4)]
    assert delays == pytest.approx([0.2, 0.6, 1.8, None])
    assert _protocol.retry_delay_s(error("INTERNAL"), 1, 60, jitter=0) is None


def test_the_delay_is_jittered_and_must_fit_the_time_left():
    lost = error("UNAVAILABLE")
    assert _protocol.retry_delay_s(lost, 1, 60, jitter=0) == pytest.approx(0.1)
    assert _protocol.retry_delay_s(lost, 1, 0.09, jitter=0) is None
