"""The values a caller receives."""

import dataclasses

import pytest

from ma_agiqa_client import Gate, InvalidImageError, Score


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ((1, 1, 2), (0.25, 0.25, 0.5)),
        ((-1, 1, -2), (0.25, 0.25, 0.5)),
        ((0, 0, -3), (0, 0, 1)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_gate_shares_are_by_magnitude_in_the_served_order(weights, shares):
    gate = Gate.from_weights(weights)
    assert (gate.semantic, gate.coherence, gate.quality) == shares


def test_values_are_frozen():
    for value in (Gate(0.2, 0.3, 0.5), Score.failed(InvalidImageError("no"), 1.0, None)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.semantic = 1.0


def test_a_failed_score_has_its_reason_and_no_numbers():
    error = InvalidImageError("no")
    score = Score.failed(error, 3.0, "tiny")
    assert (score.error, score.latency_ms, score.model) == (error, 3.0, "tiny")
    assert score.mos is score.normalized is score.percentile is score.gate is None
