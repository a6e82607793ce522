"""What the steps count, against a recorder in place of Triton's metric functions."""

import json
import math
import time
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from ma_agiqa.serving import metrics
from ma_agiqa.serving.metrics import Meter, ScoreMetrics, StepMetrics, counted, is_canary


class Recorder:
    """Keeps what a step hands over, by name and labels; has the parts of Triton's module."""

    TritonError = SimpleNamespace(INVALID_ARG=3, CANCELLED=6, UNAVAILABLE=4, INTERNAL=2)

    def __init__(self):
        self.counters = defaultdict(float)
        self.values = defaultdict(list)
        self.log = []
        write = self.log.append
        self.Logger = SimpleNamespace(log_error=write, log_warn=write, log_info=write)
        outer = self

        class Family:
            COUNTER, HISTOGRAM = "counter", "histogram"

            def __init__(self, name, description, kind):
                assert description
                self.name, self.kind = name, kind

            def Metric(self, labels, buckets=None):
                assert (buckets is not None) == (self.kind == self.HISTOGRAM)
                key = self.name, *(labels[name] for name in sorted(labels))

                def increment(amount):
                    outer.counters[key] += amount

                def observe(value):
                    outer.values[key].append(value)

                return SimpleNamespace(increment=increment, observe=observe)

        self.MetricFamily = Family


@pytest.fixture
def triton():
    return Recorder()


def request(
    images: int = 1, tensor: str = "IMAGE", also: tuple[str, ...] = (), parameters: str = ""
):
    def named(name):
        return SimpleNamespace(name=lambda: name, shape=lambda: [images, 1])

    inputs = [named(name) for name in (tensor, *also)]
    return SimpleNamespace(
        inputs=lambda: inputs, request_id=lambda: f"id of {images}", parameters=lambda: parameters
    )


def response(code: int | None = None):
    error = SimpleNamespace(code=lambda: code)
    return SimpleNamespace(has_error=lambda: code is not None, error=lambda: error)


def images_of(triton) -> dict[str, float]:
    return {key[1]: n for key, n in triton.counters.items() if key[0] == "ma_agiqa_images_total"}


def test_numbers_arrive_when_the_meter_closes(triton):
    meter = Meter(triton, flush_s=3600)
    meter.add("ma_agiqa_gate_total", 0.25, input="quality")
    meter.add("ma_agiqa_gate_total", 0.5, input="quality")
    meter.observe("ma_agiqa_score", [1.0, 4.5])
    assert not triton.counters
    meter.close()
    assert triton.counters == {("ma_agiqa_gate_total", "quality"): 0.75}
    assert triton.values == {("ma_agiqa_score",): [1.0, 4.5]}


def test_values_beyond_the_limit_are_dropped_and_said(triton, monkeypatch):
    monkeypatch.setattr(metrics, "MAX_WAITING", 3)
    meter = Meter(triton, flush_s=3600)
    meter.observe("ma_agiqa_score", [1.0, 2.0])
    meter.observe("ma_agiqa_score", [3.0, 4.0])
    meter.close()
    assert triton.values["ma_agiqa_score",] == [1.0, 2.0]
    assert triton.log == ["metrics: 2 values were dropped under load"]


def test_a_step_counts_its_batch_and_the_images_that_end_in_it(triton):
    metrics = StepMetrics(triton, "preprocess", images="IMAGE")
    requests = [request(2), request(3), request(1), request(4), request(1)]
    codes = (None, 3, 6, 2, 4)
    metrics.count(requests, [response(code) for code in codes], seconds=0.5)
    metrics.meter.close()
    expected = {"refused": 3, "late": 1, "failed": 4, "overloaded": 1, "deferred": 0}
    assert images_of(triton) == expected
    assert triton.values["ma_agiqa_batch_images", "preprocess"] == [11]
    assert triton.counters["ma_agiqa_busy_seconds_total", "preprocess"] == 0.5


@pytest.mark.parametrize(
    ("parameters", "counted"),
    [("", "overloaded"), ('{"traffic_class": "bulk"}', "deferred"), ('{"canary": true}', None)],
)
def test_what_no_caller_misses_is_not_counted_as_overload(triton, parameters, counted):
    metrics = StepMetrics(triton, "preprocess", images="IMAGE")
    metrics.count_answer(request(2, parameters=parameters), response(4))
    metrics.meter.close()
    images = {outcome: number for outcome, number in images_of(triton).items() if number}
    assert images == ({counted: 2} if counted else {})


@pytest.mark.parametrize(
    ("step", "expected"),
    [("preprocess", [("id of 2", "refused")]), ("meter", [("id of 1", "scored")])],
)
def test_requests_are_logged_where_they_end_if_asked(triton, monkeypatch, step, expected):
    monkeypatch.setenv("MA_AGIQA_REQUEST_LOG", "1")
    metrics = StepMetrics(triton, step, images="IMAGE")
    requests = [request(1)] if step == "meter" else [request(1), request(2)]
    metrics.count(requests, [response(code) for code in (None, 3)[: len(requests)]], 0.5)
    metrics.meter.close()
    lines = [json.loads(line) for line in triton.log]
    assert [(line["request_id"], line["outcome"]) for line in lines] == expected
    assert {line["step"] for line in lines} == {step}


def test_of_a_long_id_only_the_beginning_is_logged(triton, monkeypatch):
    monkeypatch.setenv("MA_AGIQA_REQUEST_LOG", "1")
    metrics = StepMetrics(triton, "meter", images="IMAGE")
    long = request()
    long.request_id = lambda: "x" * 1_000_000
    metrics.count([long], [response()], 0.5)
    metrics.meter.close()
    assert len(triton.log[0]) < 400


def test_questions_are_no_images(triton):
    metrics = StepMetrics(triton, "mplug_owl2", images="SEMANTIC_VIEW", unless="PROMPT")
    metrics.count([request(1, "SEMANTIC_VIEW", also=("PROMPT",))], [response(2)], 0.5)
    metrics.meter.close()
    assert not any(images_of(triton).values())
    assert triton.counters["ma_agiqa_busy_seconds_total", "mplug_owl2"] == 0.5
    assert not triton.values


def test_execute_answers_even_if_it_cannot_be_counted(triton):
    class Model:
        metrics = StepMetrics(triton, "preprocess", images="IMAGE")

        @counted
        def execute(self, requests):
            return ["an answer without has_error" for _ in requests]

    assert Model().execute([request()]) == ["an answer without has_error"]
    assert len(triton.log) == 1
    assert "preprocess could not be counted" in triton.log[0]


def test_the_size_and_time_of_an_image_are_noted(triton):
    metrics = StepMetrics(triton, "preprocess", images="IMAGE")
    metrics.note_decoding(2_000_000, 0.25)
    metrics.meter.close()
    assert triton.values["ma_agiqa_decode_seconds",] == [0.25]
    assert triton.values["ma_agiqa_image_megapixels",] == [2.0]


def test_scores_gates_and_quantiles(triton):
    meter = Meter(triton)
    metrics = ScoreMetrics(meter, np.linspace(0, 5, 101), ("semantic", "coherence", "quality"))
    gates = [(0.1, 0.2, 0.3), (0.3, 0.4, 0.5), (0.5, 0.6, 0.7)]
    metrics.count([0.0, 2.51, 9.0], gates, familiarity=[0.25, np.nan, 1.0])  # NaN: not calibrated
    meter.close()
    assert triton.values["ma_agiqa_familiarity",] == [0.25, 1.0]
    assert triton.counters["ma_agiqa_images_total", "scored", "meter"] == 3
    gates = [
        triton.counters["ma_agiqa_gate_total", n] for n in ("semantic", "coherence", "quality")
    ]
    assert gates == pytest.approx([0.9, 1.2, 1.5])
    assert triton.values["ma_agiqa_score",] == [0.0, 2.51, 9.0]
    assert triton.values["ma_agiqa_score_quantile",] == [0.01, 0.51, 1.0]


@pytest.mark.parametrize("quantiles", [(), np.linspace(0, 5, 101)])
@pytest.mark.parametrize(
    ("score", "gate"),
    [
        *((bad, 0.1) for bad in (np.nan, np.inf, -np.inf, 1e30, -1e30)),
        *((3.0, bad) for bad in (np.nan, np.inf, -np.inf, 1e30, -1e30)),
    ],
)
def test_numbers_of_a_direct_call_do_not_poison_the_sums(triton, quantiles, score, gate):
    meter = Meter(triton)
    metrics = ScoreMetrics(meter, quantiles, ("semantic",))
    metrics.count([2.0, score, 4.0], [(0.25,), (gate,), (0.5,)])
    metrics.count([score], [(gate,)])
    meter.close()
    assert triton.counters["ma_agiqa_images_total", "scored", "meter"] == 2
    assert triton.counters["ma_agiqa_images_total", "implausible", "meter"] == 2
    assert triton.counters["ma_agiqa_gate_total", "semantic"] == 0.75
    assert triton.values["ma_agiqa_score",] == [2.0, 4.0]
    assert not triton.log


def test_negative_gates_do_not_decrease_a_counter(triton):
    """The gate of the authors' released code has no activation."""
    meter = Meter(triton)
    ScoreMetrics(meter, (), ("semantic", "quality")).count([2.0, 3.0], [(-0.5, 1.5), (0.25, 2.0)])
    meter.close()
    assert triton.counters["ma_agiqa_gate_total", "semantic"] == 0.25
    assert triton.counters["ma_agiqa_gate_total", "quality"] == 3.5
    assert triton.values["ma_agiqa_score",] == [2.0, 3.0]


@pytest.mark.parametrize("amount", [-0.1, float("nan"), float("inf")])
def test_a_series_takes_no_number_that_would_end_it(triton, amount):
    meter = Meter(triton)
    with pytest.raises(ValueError, match="cannot be added to the counter ma_agiqa_gate_total"):
        meter.add("ma_agiqa_gate_total", amount)
    if not np.isfinite(amount):
        with pytest.raises(ValueError, match="ma_agiqa_score takes finite numbers"):
            meter.observe("ma_agiqa_score", [1.0, amount])
    meter.close()
    assert not triton.counters
    assert not triton.values


def test_a_series_that_fails_takes_no_other_with_it(triton):
    meter = Meter(triton, flush_s=3600)
    meter.add("unknown_family", 1)
    meter.observe("unknown_too", [1.0])
    meter.add("ma_agiqa_gate_total", 0.5, input="quality")
    meter.observe("ma_agiqa_score", [2.0])
    meter.close()
    assert triton.counters == {("ma_agiqa_gate_total", "quality"): 0.5}
    assert triton.values == {("ma_agiqa_score",): [2.0]}
    assert [line.split()[0] for line in triton.log] == ["unknown_family", "unknown_too"]


def test_the_training_data_itself_fills_every_tenth_equally(triton):
    """So that drift is the distance from equal tenths."""
    opinions = np.sort(np.random.default_rng(0).beta(2, 3, 2000) * 5)
    meter = Meter(triton)
    quantiles = np.percentile(opinions, range(101))
    ScoreMetrics(meter, quantiles, ()).count(opinions.tolist(), [()] * len(opinions))
    meter.close()
    tenths = np.ceil(np.round(np.array(triton.values["ma_agiqa_score_quantile",]) * 10, 6))
    assert np.bincount(tenths.astype(int), minlength=11)[1:].tolist() == pytest.approx(
        [200] * 10, abs=2
    )


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [("", False), ("{}", False), ('{"canary": true}', True), ('{"canary": "yes"}', False)],
)
def test_canaries(parameters, expected):
    assert is_canary(SimpleNamespace(parameters=lambda: parameters)) is expected


@pytest.mark.parametrize("arrived_s", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_only_times_of_this_server_are_counted(triton, arrived_s):
    metrics = StepMetrics(triton, "meter", images="UNCOUNTED_SCORE")
    metrics.note_request(time.monotonic() - 0.25)
    metrics.note_request(arrived_s)
    metrics.meter.close()
    (seconds,) = triton.values["ma_agiqa_request_seconds",]
    assert seconds >= 0.25
