"""Rows, and what is kept of them in files."""

import json

import numpy as np
import pytest

from ma_agiqa_client.cli.rows import Row, pack_map
from support.scripted_server import GATE


def test_a_row_survives_json_exactly():
    row = Row("a.png", 1.1696864366531372, 0.2, 8.5, GATE, "tiny")
    assert Row.from_dict(json.loads(json.dumps(row.to_dict()))) == row


def test_patch_maps_survive_json_to_half_precision():
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 9, (3, 5)).astype(np.float32)
    record = Row("a.png", 1.0, 0.2, 8.5, GATE, "tiny").to_dict() | {"map": pack_map(values)}
    again = Row.from_dict(json.loads(json.dumps(record)))
    np.testing.assert_allclose(again.map, values, rtol=2**-11)


@pytest.mark.parametrize(
    "damage",
    [
        *({"mos": None}, {"mos": float("nan")}, {"gate": None}, {"image": 7}),
        *({"map": {"shape": [2, 2], "values": "?"}}, {"map": {"shape": [9, 9], "values": "AAA="}}),
    ],
)
def test_what_is_no_scored_row_is_refused(damage):
    record = Row("a.png", 1.0, 0.2, 8.5, GATE, "tiny").to_dict() | damage
    with pytest.raises((KeyError, TypeError, ValueError)):
        Row.from_dict(record)
