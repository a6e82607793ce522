"""What the served steps count and measure for Prometheus, in addition to Triton's own metrics.

    ma_agiqa_images_total{outcome, step}     images scored, or where and why they were not
    ma_agiqa_request_seconds                 time from taking a request to its scores
    ma_agiqa_batch_images{step}              images in one execution of a step
    ma_agiqa_busy_seconds_total{step}        time in which a step computed; its rate is the load
    ma_agiqa_decode_seconds                  time to decode one image file
    ma_agiqa_image_megapixels                size of the images
    ma_agiqa_score                           predicted MOS
    ma_agiqa_score_quantile                  where that MOS lies in the training data, 0 to 1
    ma_agiqa_familiarity                     how near the images are to the training images, 0 to 1
    ma_agiqa_gate_total{input}               sum of the gates; divided by the images: their means

The scorer is TorchScript, and in production that step has no Python. So the chain ends in the small
step `meter`, which passes SCORE, GATE and FAMILIARITY on unchanged and counts them.

A call of Triton's metric functions crosses to another process: 0.02 to 0.15 ms (2 shared cores, no
GPU). Steps therefore only keep numbers in memory, and a thread hands them over twice a second.
Metrics never fail a request. Every process of a step adds to the same series, so these continue
when a new version of a model takes over; they start again at 0 with the server.

With MA_AGIQA_REQUEST_LOG=1 in the server's environment, the step in which a request ends also
writes a line to the server's log: a JSON object with `request_id`, `step`, `outcome` and `images`.
deploy/monitoring/json_log.py turns the whole log into JSON.

The request parameter `canary` (true) keeps a request out of the metrics of outcomes, scores and
gates: health probes send the same image again and again, which would look like drift, and no caller
misses their score.
"""

import ctypes
import functools
import json
import math
import os
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock, Thread
from typing import Any

CANARY = "canary"
"""Request parameter: true keeps the request out of the metrics of outcomes and scores."""

REQUEST_LOG = "MA_AGIQA_REQUEST_LOG"
"""Environment variable: 1 writes a line for each request to the server's log."""

LAST_STEP = "meter"
"""The step whose answered requests are scored."""

_LOGGED_ID = 200  # characters of a request's id, which may be long
FLUSH_S = 0.5
MAX_WAITING = 100_000
"""Most values that may wait for the thread; more are dropped, which is logged."""

_SCORE_LIMIT = 1e6  # of scores, where the card does not say how the training data are distributed
_GATE_LIMIT = 100.0  # gates without an activation are no shares, but not far from them
_REQUEST_LIMIT_S = 3600.0  # no request takes longer
_LABELS = tuple[tuple[str, str], ...]
_COUNTERS = {
    "ma_agiqa_images_total": "Images by outcome, and the step that decided it",
    "ma_agiqa_busy_seconds_total": "Seconds in which a step computed",
    "ma_agiqa_gate_total": "Sum of the gates of the scored images, by input",
}
_HISTOGRAMS: Mapping[str, tuple[str, list[float]]] = {
    "ma_agiqa_request_seconds": (
        "Seconds from taking a request to its scores",
        [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30],
    ),
    "ma_agiqa_batch_images": (
        "Images in one execution of a step",
        [1, 2, 4, 8, 12, 16, 24, 32],
    ),
    "ma_agiqa_decode_seconds": (
        "Seconds to decode one image file",
        [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
    ),
    "ma_agiqa_image_megapixels": (
        "Megapixels of the images",
        [0.0625, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 67.2],
    ),
    "ma_agiqa_score": (
        "Predicted mean opinion score",
        [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5],
    ),
    "ma_agiqa_score_quantile": (
        "Share of the training images whose opinion score is below the predicted one",
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1],
    ),
    "ma_agiqa_familiarity": (
        "Share of held-out images at least as far from the training images",
        [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1],
    ),
}


class Meter:
    """Collects numbers in memory, and hands them to Triton from a thread of its own."""

    def __init__(self, triton: Any, flush_s: float = FLUSH_S):
        """Start the thread.

        Args:
            triton: the module `triton_python_backend_utils`.
            flush_s: seconds between two times that the numbers are handed over.
        """
        self._triton = triton
        self._flush_s = flush_s
        self._lock = Lock()
        self._sums: dict[tuple[str, _LABELS], float] = defaultdict(float)
        self._values: dict[tuple[str, _LABELS], list[float]] = defaultdict(list)
        self._waiting = 0
        self._dropped = 0
        # Never deleted: deleting a family deletes the series of other processes, too, and crashes
        # a process that is ending (triton-inference-server/server#8663 and #8662). So both get an
        # extra reference, which Python does not release even when it ends.
        self._families: dict[str, Any] = {}
        self._series: dict[tuple[str, _LABELS], Any] = {}
        for kept in (self._families, self._series):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter: a finite number from 0 on; any other would end the series."""
        if not 0 <= amount < math.inf:
            raise ValueError(f"{amount} cannot be added to the counter {name}.")
        with self._lock:
            self._sums[name, tuple(sorted(labels.items()))] += amount

    def observe(self, name: str, values: Sequence[float], **labels: str) -> None:
        """Add finite values to a histogram; any other would make its sum useless for good."""
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name} takes finite numbers; it was given {values}.")
        with self._lock:
            if self._waiting + len(values) > MAX_WAITING:
                self._dropped += len(values)
                return
            self._waiting += len(values)
            self._values[name, tuple(sorted(labels.items()))].extend(values)

    def flush(self) -> None:
        """Hand over what has been collected; while the thread runs, only it calls this."""
        with self._lock:
            sums, self._sums = self._sums, defaultdict(float)
            values, self._values = self._values, defaultdict(list)
            dropped, self._waiting, self._dropped = self._dropped, 0, 0
        for key, amount in sums.items():
            self._hand_over(key, "increment", [amount])
        for key, observed in values.items():
            self._hand_over(key, "observe", observed)
        if dropped:
            self._triton.Logger.log_warn(f"metrics: {dropped} values were dropped under load")

    def close(self) -> None:
        """Stop the thread, after it has handed over the last numbers."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            last = self._stopped.wait(self._flush_s)
            self.flush()
            if last:
                return

    def _hand_over(self, key: tuple[str, _LABELS], method: str, values: Sequence[float]) -> None:
        """Hand over the values of one series; if that fails, the other series do not suffer."""
        try:
            hand_over = getattr(self._metric(key), method)
            for value in values:
                hand_over(value)
        except Exception as error:  # the next numbers may pass
            self._triton.Logger.log_error(f"{key[0]} could not be handed over: {error!r}")

    def _metric(self, key: tuple[str, _LABELS]) -> Any:
        if key not in self._series:
            name, labels = key
            family = self._family(name)
            buckets = {"buckets": _HISTOGRAMS[name][1]} if name in _HISTOGRAMS else {}
            self._series[key] = family.Metric(labels=dict(labels), **buckets)
        return self._series[key]

    def _family(self, name: str) -> Any:
        if name not in self._families:
            kinds = self._triton.MetricFamily
            description = _HISTOGRAMS[name][0] if name in _HISTOGRAMS else _COUNTERS[name]
            kind = kinds.HISTOGRAM if name in _HISTOGRAMS else kinds.COUNTER
            self._families[name] = kinds(name=name, description=description, kind=kind)
        return self._families[name]


class StepMetrics:
    """Counts what every step has in common: its batches, and the images that end in it."""

    def __init__(self, triton: Any, step: str, images: str, unless: str | None = None):
        """Describe the step.

        Args:
            triton: the module `triton_python_backend_utils`.
            step: name of the model.
            images: name of the input whose first dimension is the number of images.
            unless: name of an input that marks requests that are not about scores.
        """
        self.meter = Meter(triton)
        self._triton = triton
        self._step = step
        self._images = images
        self._unless = unless
        self._logs_requests = os.environ.get(REQUEST_LOG) == "1"
        self._outcomes = {
            triton.TritonError.INVALID_ARG: "refused",
            triton.TritonError.CANCELLED: "late",
            triton.TritonError.UNAVAILABLE: "overloaded",
        }
        for outcome in (*self._outcomes.values(), "failed", "deferred"):
            # A rate needs a counter's value before the first event.
            self.meter.add("ma_agiqa_images_total", 0, outcome=outcome, step=step)

    def count(self, requests: Sequence[Any], responses: Sequence[Any], seconds: float) -> None:
        """Count one execution.

        Args:
            requests: its requests.
            responses: their responses, in the same order.
            seconds: how long it took.
        """
        self.count_batch(requests)
        self.note_busy(seconds)
        for request, response in zip(requests, responses, strict=True):
            self.count_answer(request, response)

    def count_batch(self, requests: Sequence[Any]) -> None:
        """Count the images of one execution."""
        if images := sum(self._size(request) for request in requests):
            self.meter.observe("ma_agiqa_batch_images", [images], step=self._step)

    def note_busy(self, seconds: float) -> None:
        """Note a time in which the step computed."""
        self.meter.add("ma_agiqa_busy_seconds_total", seconds, step=self._step)

    def count_answer(self, request: Any, response: Any) -> None:
        """Count the images of one request by what became of them."""
        size = self._size(request)
        if not size:
            return
        outcome = "scored"
        if response.has_error():
            outcome = self._outcomes.get(response.error().code(), "failed")
            given = json.loads(request.parameters() or "{}")
            if outcome == "overloaded" and given.get("traffic_class") == "bulk":
                outcome = "deferred"  # it is sent again later, and no one waits for it
            if given.get(CANARY) is not True:
                self.meter.add("ma_agiqa_images_total", size, outcome=outcome, step=self._step)
        if self._logs_requests and (outcome != "scored" or self._step == LAST_STEP):
            self._log_request(request, outcome, size)

    def note_decoding(self, pixels: int, seconds: float) -> None:
        """Note the size of one image, and how long its decoding took."""
        self.meter.observe("ma_agiqa_decode_seconds", [seconds])
        self.meter.observe("ma_agiqa_image_megapixels", [pixels / 1e6])

    def note_request(self, arrived_s: float) -> None:
        """Note how long a request took that has its scores now.

        Args:
            arrived_s: when the first step took it, on the monotonic clock. Anyone can call the step
                with any number: what is no time of this server is not counted.
        """
        seconds = time.monotonic() - arrived_s
        if 0 <= seconds < _REQUEST_LIMIT_S:
            self.meter.observe("ma_agiqa_request_seconds", [seconds])

    def report(self, error: Exception) -> None:
        """Write to the server's log that something could not be counted."""
        self._triton.Logger.log_error(f"{self._step} could not be counted: {error!r}")

    def _log_request(self, request: Any, outcome: str, images: int) -> None:
        line = {
            "request_id": request.request_id()[:_LOGGED_ID],
            "step": self._step,
            "outcome": outcome,
            "images": images,
        }
        self._triton.Logger.log_info(json.dumps(line))

    def _size(self, request: Any) -> int:
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        if self._unless in tensors or self._images not in tensors:
            return 0
        return int(tensors[self._images].shape()[0])


def counted(execute: Callable[[Any, list[Any]], list[Any]]) -> Callable[[Any, list[Any]], list]:
    """Make `execute` of a model count what it did in `self.metrics`, a `StepMetrics`."""

    @functools.wraps(execute)
    def counting(model: Any, requests: list[Any]) -> list[Any]:
        start = time.perf_counter()
        responses = execute(model, requests)
        try:
            model.metrics.count(requests, responses, time.perf_counter() - start)
        except Exception as error:  # no request fails because of its metrics
            model.metrics.report(error)
        return responses

    return counting


def is_canary(request: Any) -> bool:
    """Whether a request asks to be left out of the metrics of scores."""
    return json.loads(request.parameters() or "{}").get(CANARY) is True


class ScoreMetrics:
    """Counts the scores themselves."""

    def __init__(self, meter: Meter, mos_quantiles: Sequence[float], inputs: Sequence[str]):
        """Describe the model whose scores these are.

        Args:
            meter: takes the numbers.
            mos_quantiles: quantiles of the training data's MOS at 0, 1, ..., 100 percent; empty if
                the card has none.
            inputs: names of the gate's inputs, in the order of GATE.
        """
        self._meter = meter
        self._quantiles = list(mos_quantiles)
        self._inputs = tuple(inputs)
        self._lowest, self._highest = -_SCORE_LIMIT, _SCORE_LIMIT
        if self._quantiles:
            width = self._quantiles[-1] - self._quantiles[0]
            self._lowest = self._quantiles[0] - width
            self._highest = self._quantiles[-1] + width
        for outcome in ("scored", "implausible"):
            meter.add("ma_agiqa_images_total", 0, outcome=outcome, step=LAST_STEP)

    def count(
        self,
        scores: Sequence[float],
        gates: Sequence[Sequence[float]],
        familiarity: Sequence[float] = (),
    ) -> None:
        """Count scored images, given the MOS, the gates and, if known, the familiarity of each.

        The models of the ensemble can be called directly, with any numbers, and one NaN or 1e30
        would make a sum useless until the server restarts. So an image counts as "implausible"
        whose score is further from the training data than these are wide, or whose gates are not
        numbers from -100 to 100. Counters cannot decrease, so a negative gate counts as 0.
        """
        plausible = [
            (score, gate)
            for score, gate in zip(scores, gates, strict=True)
            if self._lowest <= score <= self._highest
            and all(-_GATE_LIMIT <= value <= _GATE_LIMIT for value in gate)
        ]
        if rest := len(scores) - len(plausible):
            self._meter.add("ma_agiqa_images_total", rest, outcome="implausible", step=LAST_STEP)
        if not plausible:
            return
        kept = [score for score, _ in plausible]
        self._meter.add("ma_agiqa_images_total", len(kept), outcome="scored", step=LAST_STEP)
        self._meter.observe("ma_agiqa_score", kept)
        if self._quantiles:
            quantiles = [self._quantile(score) for score in kept]
            self._meter.observe("ma_agiqa_score_quantile", quantiles)
        if familiar := [value for value in familiarity if 0 <= value <= 1]:
            self._meter.observe("ma_agiqa_familiarity", familiar)
        columns = zip(*(gate for _, gate in plausible), strict=True)
        for name, column in zip(self._inputs, columns, strict=True):
            self._meter.add("ma_agiqa_gate_total", sum(max(v, 0.0) for v in column), input=name)

    def _quantile(self, score: float) -> float:
        """Share of the training images below `score`, 0 to 1, in steps of 0.01."""
        return min(bisect_right(self._quantiles, score) / (len(self._quantiles) - 1), 1.0)
