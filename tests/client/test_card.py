"""What the numbers mean: the card, the 0-1 value, the percentile, and the shares of the gate."""

import json

import numpy as np
import pytest

from ma_agiqa_client import Gate, ModelCard, WrongModelError
from support.example_card import PARAMETERS

SCALE = {
    "mos_min": "1",
    "mos_max": "5",
    "mos_quantiles": json.dumps([1 + 0.03 * percent for percent in range(101)]),
}


def card(**changes: str) -> ModelCard:
    return ModelCard.from_parameters(PARAMETERS | SCALE | changes)


def test_every_parameter_is_read():
    model = card()
    assert (model.name, model.preset, model.dataset) == ("tiny", "demo", "synthetic")
    assert (model.mos_min, model.mos_max) == (1.0, 5.0)
    assert model.metrics == {"srcc": 0.9, "split": "test"}
    assert len(model.mos_quantiles) == 101
    assert model.checkpoint_sha256 == "0" * 64
    assert (model.created, model.gate_activation) == ("2025-01-31T12:00:00Z", "none")
    assert model.note == "The demo model."


def test_parameters_of_a_later_version_are_ignored():
    assert card(something_new="1") == card()


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_missing_parameter_is_named(name):
    with pytest.raises(WrongModelError, match=f"no parameter `{name}`"):
        ModelCard.from_parameters({key: PARAMETERS[key] for key in PARAMETERS if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mos_min", "low"),
        ("mos_min", "nan"),
        ("mos_max", "inf"),
        ("mos_max", "1"),
        ("metrics", "{"),
        ("metrics", "[]"),
        ("mos_quantiles", "[1, 2]"),
        ("mos_quantiles", json.dumps(["a"] * 101)),
        ("mos_quantiles", json.dumps(list(range(101, 0, -1)))),
        ("mos_quantiles", "NaN"),
        ("version", "two"),
        *(("alignment", text) for text in ("[", "[]", "{}", '{"question": 1, "answer": "Yes"}')),
        *(("calibration", text) for text in ("{}", "[1]", '{"level": 0.9, "reach": 0}', "no JSON")),
    ],
)
def test_a_malformed_parameter_is_named(name, value):
    with pytest.raises(WrongModelError, match=f"parameter `{name}`.*expected"):
        card(**{name: value})


@pytest.mark.parametrize(("mos", "expected"), [(1, 0), (3, 0.5), (5, 1), (0.2, 0), (7, 1)])
def test_normalize(mos, expected):
    assert card().normalize(mos) == expected


def test_the_percentile_of_a_shared_mos_is_its_middle():
    quantiles = [1.0] * 41 + [2.0] * 20 + [3.0] * 40  # 0-40 %, 41-60 %, 61-100 %
    model = card(mos_quantiles=json.dumps(quantiles))
    given = [model.percentile(mos) for mos in (0.9, 1, 2, 3, 3.1)]
    assert given == [0, 20, 50.5, 80.5, 100]


def test_the_percentile_agrees_with_counting():
    mos = np.random.default_rng(3).normal(3, 0.7, 20_001)
    quantiles = np.quantile(mos, np.linspace(0, 1, 101))
    model = card(mos_quantiles=json.dumps(quantiles.tolist()))
    for value in (0.0, 1.5, 2.5, 3.0, 3.3, 4.4, 9.0):
        assert model.percentile(value) == pytest.approx(100 * (mos < value).mean(), abs=0.3)


def test_the_version_may_be_missing():
    assert card().version == 0
    assert card(version="3").version == 3


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
