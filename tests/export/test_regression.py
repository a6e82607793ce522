"""A version that was measured to be worse than the active one is not activated by accident."""

import dataclasses
import json

import pytest

from exporter import versions
from exporter.regression import changes
from ma_agiqa.errors import CheckpointError


def card(
    srcc=0.9, rmse_raw=0.5, coverage=0.9, level=0.9, dataset="ours", split="test"
) -> dict[str, str]:
    metrics = {"srcc": srcc, "plcc": 0.9, "rmse_raw": rmse_raw, "split": split}
    calibration = {"level": level, "test": {"coverage": coverage, "width": 1.5, "count": 100}}
    return {
        "dataset": dataset,
        "metrics": json.dumps(metrics),
        "calibration": json.dumps(calibration),
    }


@pytest.mark.parametrize(
    ("changed", "beyond"),
    [
        ({}, []),
        ({"srcc": 0.881, "rmse_raw": 0.524, "coverage": 0.86}, []),
        ({"srcc": 0.879}, ["srcc 0.900 -> 0.879"]),
        ({"rmse_raw": 0.53}, ["rmse_raw 0.500 -> 0.530"]),
        ({"coverage": 0.84}, ["coverage 0.900 -> 0.840"]),
        ({"coverage": 0.8, "level": 0.8}, []),
        ({"srcc": None}, ["srcc 0.900 -> -"]),
        ({"srcc": 0.5, "dataset": "another"}, []),
        ({"srcc": 0.5, "split": "validation"}, []),
    ],
)
def test_what_is_a_regression(changed, beyond):
    found = changes(card(), card(**changed))
    assert [str(change) for change in found if change.beyond] == beyond
    assert [change.name for change in found][:2] == ["srcc", "plcc"]


def test_versions_without_numbers_are_shown_without_limits():
    assert changes({"metrics": "{}"}, card())[0].before != changes({}, card())[0].before  # NaN
    assert not any(change.beyond for change in changes({}, card()))
    without = {name: value for name, value in card().items() if name != "calibration"}
    assert not any(change.beyond for change in changes(card(), without))


def test_a_worse_checkpoint_is_not_activated_unless_told(repository, new, monkeypatch):
    version = new(repository)
    shipped = versions.card_of(repository, 1)
    split = json.loads(shipped["metrics"])["split"]
    worse = dataclasses.replace(
        version.source.card, dataset=shipped["dataset"], metrics={"srcc": 0.1, "split": split}
    )
    version.source = dataclasses.replace(version.source, card=worse)
    monkeypatch.setattr(version, "_fits", lambda *_: True)  # whether it is calibrated or not
    with pytest.raises(CheckpointError, match=r"worse than version 1, .*srcc .* -> 0\.100.*accept"):
        version.activate([])
    assert versions.stored_versions(repository) == [1]
    version._check_regression(repository, 2, accepted=True)
