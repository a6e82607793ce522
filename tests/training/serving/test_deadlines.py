"""What is too late, on a clock that the test decides."""

import json
from dataclasses import dataclass

import pytest

from ma_agiqa.serving.deadlines import refusal, unwanted

NOW_US = 1_700_000_000_000_000


def refuse(parameters: str) -> str | None:
    return refusal(parameters, "preprocess", lambda: NOW_US * 1000 + 999)


@pytest.mark.parametrize(
    "parameters",
    ["", "{}", '{"deadline_unix_us": null}', '{"deadline_unix_us": "soon"}', '{"other": 1}'],
)
def test_without_a_deadline_nothing_is_refused(parameters):
    assert refuse(parameters) is None


@pytest.mark.parametrize("left_us", [0, 1, 60_000_000])
def test_in_time(left_us):
    assert refuse(json.dumps({"deadline_unix_us": NOW_US + left_us})) is None


def test_too_late_is_said_with_the_time_here():
    message = refuse(json.dumps({"deadline_unix_us": NOW_US - 1_500_000}))
    assert message.startswith("DEADLINE_EXCEEDED")
    assert "step preprocess 1.500 s after its deadline" in message
    assert f"(server clock {NOW_US} us)" in message


@dataclass
class Request:
    """What Triton's python backend gives to a step, as far as it is asked."""

    deadline_us: int
    cancelled: bool = False

    def parameters(self) -> str:
        return json.dumps({"deadline_unix_us": self.deadline_us})

    def is_cancelled(self) -> bool:
        return self.cancelled


def test_a_request_is_wanted_until_it_is_late_or_given_up():
    far = 2**62
    assert unwanted(Request(far), "preprocess") is None
    assert unwanted(Request(1), "preprocess").startswith("DEADLINE_EXCEEDED")
    given_up = unwanted(Request(far, cancelled=True), "preprocess")
    assert given_up == "The request was given up before step preprocess; nothing was computed."
