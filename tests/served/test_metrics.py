"""The metrics of the running server: every family, and what one scored image does to them."""

import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from ma_agiqa.tensors import GATE_ORDER
from support.triton_requests import infer
from support.waiting import settled

COUNTED = ("ma_agiqa_", "nv_inference_")
FLUSHED_S = 1.2  # longer than the steps keep numbers to themselves
IMAGE = (Path(__file__).resolve().parents[2] / "examples" / "coffee_blur.jpg").read_bytes()


def read(url: str) -> dict[str, float]:
    """Value of each series that counts images or requests, from Prometheus' text format.

    Quantiles of a model that nothing asked for are NaN, which equals nothing, and are left out.
    """
    with urllib.request.urlopen(url, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    rows = (line.rpartition(" ") for line in lines if line.startswith(COUNTED))
    return {name: float(value) for name, _, value in rows if value.lower() != "nan"}


def change(server, act: Callable[[], object], until: str) -> dict[str, float]:
    """What `act` adds to the series, read when the series `until` has moved and all is flushed."""

    def current() -> dict[str, float]:
        return read(server.metrics_url)

    before = settled(current, still_s=FLUSHED_S)
    act()
    after = settled(current, lambda now: now.get(until) != before.get(until), still_s=FLUSHED_S)
    return {n: after[n] - before.get(n, 0) for n in after if after[n] != before.get(n, 0)}


METER_REQUESTS = 'nv_inference_request_success{model="meter",version="1"}'
SCORED = 'ma_agiqa_images_total{outcome="scored",step="meter"}'


def test_two_scored_images(server, client):
    answers = []
    moved = change(server, lambda: answers.append(infer(client, IMAGE, IMAGE)), SCORED)
    scores, gates = answers[0]["SCORE"], answers[0]["GATE"]
    assert moved[SCORED] == 2
    assert moved["ma_agiqa_score_count"] == moved["ma_agiqa_score_quantile_count"] == 2
    assert moved["ma_agiqa_score_sum"] == pytest.approx(scores.sum(), abs=1e-4)
    for name, total in zip(GATE_ORDER, gates.sum(axis=0), strict=True):
        assert moved[f'ma_agiqa_gate_total{{input="{name}"}}'] == pytest.approx(total, abs=1e-4)
    assert moved["ma_agiqa_decode_seconds_count"] == 2
    assert 0 < moved["ma_agiqa_decode_seconds_sum"] < 60
    assert moved["ma_agiqa_image_megapixels_count"] == 2
    for step in ("preprocess", "mplug_owl2", "meter"):
        assert moved[f'ma_agiqa_batch_images_sum{{step="{step}"}}'] == 2
        assert moved[f'ma_agiqa_batch_images_count{{step="{step}"}}'] == 1
        assert 0 < moved[f'ma_agiqa_busy_seconds_total{{step="{step}"}}'] < 60
    assert moved['nv_inference_count{model="ma_agiqa",version="1"}'] == 2
    assert moved[METER_REQUESTS] == 1


def test_a_file_that_is_no_image(server, client):
    def send():
        with pytest.raises(InferenceServerException):
            infer(client, b"no image")

    refused = 'ma_agiqa_images_total{outcome="refused",step="preprocess"}'
    moved = change(server, send, refused)
    assert moved[refused] == 1
    assert SCORED not in moved


def test_a_late_request(server, client):
    def send():
        with pytest.raises(InferenceServerException, match="DEADLINE"):
            infer(client, IMAGE, deadline_unix_us=1)

    late = 'ma_agiqa_images_total{outcome="late",step="preprocess"}'
    moved = change(server, send, late)
    assert moved[late] == 1
    failures = [name for name in moved if name.startswith("nv_inference_request_failure")]
    assert all('model="ma_agiqa"' in name for name in failures)  # no step counts it as its own


def test_a_canary_is_scored_and_left_out_of_the_scores(server, client):
    answers = []
    series = 'ma_agiqa_batch_images_count{step="meter"}'
    moved = change(server, lambda: answers.append(infer(client, IMAGE, canary=True)), series)
    assert answers[0]["SCORE"].shape == (1, 1)
    assert SCORED not in moved
    assert moved[METER_REQUESTS] == 1
    assert not [name for name in moved if name.startswith(("ma_agiqa_score", "ma_agiqa_gate"))]


def test_direct_calls_of_the_meter_do_not_poison_the_scores(stand_in):
    """Anyone who may score may call it, with any numbers; the next score counts as ever."""

    def send():
        with InferenceServerClient(stand_in.grpc_url) as client:
            poisons = (np.nan, 0.1, np.nan), (-1e30, 0.1, -1), (np.inf, 1, 2), (3, np.nan, np.inf)
            for poison in poisons:
                tensors = []
                inputs = ("SCORE", 1), ("GATE", 3), ("FAMILIARITY", 1)
                for (name, width), value in zip(inputs, poison, strict=True):
                    tensor = InferInput(f"UNCOUNTED_{name}", [8, width], "FP32")
                    values = np.full((8, width), value, np.float32)
                    tensors.append(tensor.set_data_from_numpy(values))
                client.infer("meter", tensors)
            answers.append(infer(client, IMAGE))

    answers: list[dict[str, np.ndarray]] = []
    moved = change(stand_in, send, SCORED)
    assert (
        moved[SCORED] == moved["ma_agiqa_score_count"] == moved["ma_agiqa_familiarity_count"] == 1
    )
    assert moved["ma_agiqa_score_sum"] == pytest.approx(answers[0]["SCORE"].sum(), abs=1e-4)
    assert moved[SCORED.replace("scored", "implausible")] == 32
