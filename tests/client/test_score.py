"""The values a caller receives."""

import dataclasses

import pytest

from ma_agiqa_client import Failure, Gate, InvalidImageError


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
    for value in (Gate(0.2, 0.3, 0.5), Failure("a.png", InvalidImageError("no"))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.semantic = 1.0
