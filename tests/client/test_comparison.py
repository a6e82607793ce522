"""Intervals, familiarity and comparisons, as far as they need no server."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ma_agiqa_client import Comparison, Interval, ModelCard, WrongModelError
from ma_agiqa_client._core import protocol
from ma_agiqa_client._core.ordering import best_first
from ma_agiqa_client.comparison import compare
from support.example_card import CARD, PARAMETERS
from support.scripted_server import Tensors, ensemble_config
from support.stand_in.repository import CALIBRATION

CALIBRATED = ModelCard.from_parameters(PARAMETERS | {"calibration": json.dumps(CALIBRATION)})


def score(mos, deviation=2.0, familiarity=0.5, card=CALIBRATED):
    half = 2 * deviation
    tensors = {
        "SCORE": [[mos]],
        "GATE": [[1, 1, 2]],
        "INTERVAL": [[mos - half, mos + half]],
        "FAMILIARITY": [[familiarity]],
    }
    return protocol.read_score(
        Tensors(tensors), card, source=mos, index=0, latency_ms=1.0, maps=False, request_id=""
    )


def test_a_calibrated_model_is_asked_for_interval_and_familiarity():
    message = protocol.InferRequest(b"a", True, "id", 12, calibrated=True).message("ma_agiqa")
    names = [output.name for output in message.outputs]
    assert names == ["SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT", "INTERVAL", "FAMILIARITY"]


def test_the_interval_is_clipped_to_the_scale_and_the_deviation_is_not():
    found = score(98.0)
    assert found.interval == Interval(94.0, 100.0)
    assert found.deviation == pytest.approx(2.0)
    assert found.familiarity == 0.5
    assert CALIBRATED.calibration.interval(found, 0.5) == pytest.approx((96.6, 99.4))
    with pytest.raises(ValueError, match=r"level is 0.8; this model has \[0.5, 0.9\]"):
        CALIBRATED.calibration.interval(found, 0.8)


def test_below_the_threshold_a_score_is_an_extrapolation():
    familiar = CALIBRATED.calibration.is_familiar
    assert familiar(score(50.0))
    assert not familiar(score(50.0, familiarity=0.05))


def test_a_model_without_calibration_gives_no_interval():
    found = score(50.0, card=CARD)
    assert (found.interval, found.deviation, found.familiarity) == (None, None, None)
    with pytest.raises(WrongModelError, match="was not calibrated"):
        compare(found, found, CARD)


def test_scores_of_two_models_are_not_compared():
    scores = [score(50.0), replace(score(60.0), checkpoint_sha256="other")]
    with pytest.raises(WrongModelError, match="changed while it scored the images"):
        compare(*scores, CALIBRATED)
    with pytest.raises(WrongModelError, match="changed while it scored the images"):
        best_first(scores, None)


def test_a_card_promises_nothing_that_the_ensemble_does_not_give():
    parameters = PARAMETERS | {"calibration": json.dumps(CALIBRATION)}
    outputs = ("SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT")
    assert protocol.read_card(ensemble_config(parameters, outputs=outputs)).calibration is None
    everything = (*outputs, "INTERVAL", "FAMILIARITY")
    assert protocol.read_card(ensemble_config(parameters, outputs=everything)).calibration


def test_the_probability_follows_from_the_errors():
    """Errors of -1.5, -0.75, 0, 0.75 and 1.5 deviations: 25 pairs, counted by hand."""
    assert compare(score(50.0), score(50.0), CALIBRATED).probability == 0.5
    one = compare(score(51.6), score(50.0), CALIBRATED)  # 1.6 apart: differences are k * 1.5
    assert one.probability == (15 + 4) / 25  # all with k >= -1: 5 + 4 + 3 + 2 + 1, and 4
    far = compare(score(60.0), score(50.0), CALIBRATED)
    assert (far.probability, far.better, far.is_tie) == (1.0, "a", False)


def test_ties_are_called_ties():
    tie = compare(score(50.5), score(50.0), CALIBRATED)
    assert tie.is_tie
    assert tie.better is None
    assert compare(score(50.0), score(60.0), CALIBRATED).better == "b"
    assert Comparison(score(1.0), score(2.0), 0.25).better == "b"


def test_the_probability_is_calibrated():
    """Of 40,000 simulated pairs, those told 60 %, 70 % ... come out so to 3 %."""
    rng = np.random.default_rng(0)
    errors = np.sort(rng.standard_normal(4000))
    record = CALIBRATION | {"errors": np.quantile(errors, (np.arange(41) + 0.5) / 41).tolist()}
    card = ModelCard.from_parameters(PARAMETERS | {"calibration": json.dumps(record)})
    told, happened = [], []
    for _ in range(2000):
        a, b = (score(mos, deviation, card=card) for mos, deviation in rng.uniform(1, 5, (2, 2)))
        told.append(compare(a, b, card).probability)
        noise = rng.standard_normal((2, 20))
        happened.append((a.mos + a.deviation * noise[0] > b.mos + b.deviation * noise[1]).mean())
    told, happened = np.array(told), np.array(happened)
    for low in np.arange(0, 1, 0.1):
        inside = (low <= told) & (told < low + 0.1)
        if inside.sum() >= 50:  # 1,000 pairs: 1.6 % (one sigma)
            assert happened[inside].mean() == pytest.approx(told[inside].mean(), abs=0.05)


def test_ranking_says_how_sure_each_place_is():
    ranked = best_first([score(50.0), score(60.0), score(59.5)], None, CALIBRATED)
    assert [one.mos for one in ranked] == [60.0, 59.5, 50.0]
    assert ranked[0].lead < 0.75 <= ranked[1].lead
    assert ranked[2].lead is None
    top = best_first([score(50.0), score(60.0)], 1, CALIBRATED)
    assert [one.lead for one in top] == [1.0]  # over one that is not shown
    assert best_first([score(50.0), score(60.0)], None, CARD)[0].lead is None
