"""Replies of the served models, against a stand-in for Triton's module."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ma_agiqa.serving.replies import Replies


class Error:
    INVALID_ARG, INTERNAL, CANCELLED = 3, 2, 6

    def __init__(self, message, code):
        self.message, self.code = message, code


class Tensor:
    def __init__(self, name, values):
        assert isinstance(values, np.ndarray)
        self.name, self.values = name, values

    @classmethod
    def from_dlpack(cls, name, values):
        return SimpleNamespace(name=name, values=torch.from_dlpack(values), from_dlpack=True)


@pytest.fixture
def log():
    return []


@pytest.fixture
def replies(log):
    def response(tensors=(), error=None):
        return SimpleNamespace(tensors=tensors, error=error)

    triton = SimpleNamespace(
        InferenceResponse=response,
        TritonError=Error,
        Tensor=Tensor,
        Logger=SimpleNamespace(log_error=log.append),
    )
    return Replies(triton, "step")


def request(name: str, left_s: float | None = None, cancelled: bool = False):
    deadline = "" if left_s is None else time.time_ns() // 1000 + int(left_s * 1e6)
    parameters = f'{{"deadline_unix_us": {deadline}}}' if deadline else ""
    return SimpleNamespace(name=name, parameters=lambda: parameters, is_cancelled=lambda: cancelled)


def test_arrays_go_in_as_they_are_and_tensors_by_dlpack(replies):
    given = {"A": np.ones((2, 1), np.float32), "B": torch.zeros(2, 3)}
    first, second = replies.tensors(given).tensors
    assert (first.name, first.values is given["A"]) == ("A", True)
    assert (second.name, second.from_dlpack) == ("B", True)
    assert torch.equal(second.values, given["B"])


def test_a_refusal_has_the_errors_sentence_and_leaves_no_trace(replies, log):
    error = replies.refusal(ValueError("Not an image."), "INVALID_ARG").error
    assert (error.message, error.code) == ("Not an image.", Error.INVALID_ARG)
    assert log == []


def test_the_details_of_a_failure_reach_the_log_alone_and_once(replies, log):
    one, other = replies.failures(2, ValueError("/secret/path"), "It failed.")
    assert one is not other
    for response in (one, other):
        assert (response.error.message, response.error.code) == ("It failed.", Error.INTERNAL)
    assert log == ["step failed: ValueError('/secret/path')"]
    assert replies.failure("a traceback", "It failed.").error.message == "It failed."
    assert log[1] == "step failed: a traceback"


def test_only_what_a_client_waits_for_is_computed(replies):
    computed = []

    def answer(requests):
        computed.extend(one.name for one in requests)
        return [f"answer to {one.name}" for one in requests]

    requests = [request("a"), request("b", -1.0), request("c", 60), request("d", cancelled=True)]
    first, late, third, left = replies.in_time(requests, answer)
    assert (first, third) == ("answer to a", "answer to c")
    assert computed == ["a", "c"]
    assert late.error.message.startswith("DEADLINE_EXCEEDED: the request came to step step 1.")
    assert left.error.message == "The request was given up before step step; nothing was computed."
    assert late.error.code == left.error.code == Error.CANCELLED
    assert len(replies.in_time(requests[1:2], lambda _: pytest.fail("was called"))) == 1
