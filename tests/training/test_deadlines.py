"""What is too late, on a clock that the test decides."""

import json

import pytest

from ma_agiqa.deadlines import refusal

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
