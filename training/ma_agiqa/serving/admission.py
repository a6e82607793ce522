"""Load control: which requests are refused when more come than the server can compute.

An overloaded server that takes every request makes all of them wait until none is answered in time.
So the first step, before it decodes anything, refuses what could not be answered in time. Where
decoding itself is slow, it refuses the oldest of its own queue until the rest can be done in time.

The limit is here and not in Triton's `max_queue_size`, because a rejection by that stalls the
batches of 2.51 by half a second each (docs/capacity.md has the numbers), and because it would be
at a later step, after the decoding.

The number of waiting requests is read from the server's own metrics, so that requests that were
cancelled, or failed in a later step, are never counted as waiting. Without metrics, nothing is
refused.
"""

import json
import logging
import math
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ma_agiqa.serving.deadlines import PARAMETER

METRICS_URL_VARIABLE = "MA_AGIQA_METRICS_URL"
"""Environment variable with the address of the server's metrics, if it is not port 8002 here."""

_DEFAULT_URL = "http://127.0.0.1:8002/metrics"
_PENDING, _DONE = "nv_inference_pending_request_count{", "nv_inference_request_success{"
_INTERVAL_S = 0.1  # between two readings of the metrics
_IDLE_S = 2.0  # after this long without requests, the metrics are no longer read
_STALE_S = 1.0  # an older reading is not used
_WINDOW_REQUESTS = 256  # the rate is measured over about this many requests: several batches
_IMAGES_WEIGHT = 1 / 32  # weight of the last request in the average number of images

logger = logging.getLogger(__name__)

Fetch = Callable[[], str]


@dataclass(frozen=True)
class Backlog:
    """One reading of the metrics.

    Attributes:
        pending: number of requests in the queues of the later steps.
        pending_here: number of requests in the queue of the first step.
        done: number of requests that the second step has answered since the server started; unlike
            the first step, it gets no requests that are refused.
        time_s: when it was read, in seconds.
    """

    pending: int
    pending_here: int
    done: int
    time_s: float

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self.pending and not self.pending_here


def read_backlog(metrics: str, models: Sequence[str], time_s: float) -> Backlog:
    """Read the Prometheus text of a Triton server.

    Args:
        metrics: the text.
        models: names of the steps, in their order.
        time_s: when it was read, in seconds.
    """
    pending, done = dict.fromkeys(models, 0), 0
    for line in metrics.splitlines():
        for model in models:
            if line.startswith(_PENDING) and f'model="{model}"' in line:
                pending[model] += int(float(line.rpartition(" ")[2]))
        if line.startswith(_DONE) and f'model="{models[1]}"' in line:
            done += int(float(line.rpartition(" ")[2]))
    here = pending.pop(models[0])
    return Backlog(sum(pending.values()), here, done, time_s)


class Admission:
    """Decides which requests are refused, from the metrics that a thread of its own reads."""

    def __init__(
        self,
        models: Sequence[str],
        always: int,
        max_wait_s: float,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
        url: str = _DEFAULT_URL,
    ) -> None:
        """Start the thread.

        Args:
            models: names of this step and of those after it, in their order.
            always: number of images that may wait for the steps, however slow these are: enough for
                full batches.
            max_wait_s: further images are taken only if they wait no longer than this.
            fetch: returns the metrics as text; default: reads them from `url`.
            clock: returns seconds, for tests.
            url: address of the server's metrics.
        """
        self._models, self._clock = models, clock
        self._always, self._max_wait_s = always, max_wait_s
        self._fetch = fetch or (lambda: _get(url))
        self._backlog = Backlog(0, 0, 0, float("-inf"))
        self._asked = self._asked_before = 0
        self._admitted = self._passed_on = self._passed_on_before = 0
        self._done, self._busy_s = 0.0, 0.0  # requests done, and the busy seconds they took
        self._images = 1.0  # images in a request, on average over the last ones
        self._last_request_s = float("-inf")
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="admission", daemon=True)
        self._thread.start()

    def refusal(
        self, parameters: str, images: int = 1, now_unix_us: int | None = None
    ) -> str | None:
        """Explain why a request is refused, if it is; count it, if it is not.

        Args:
            parameters: the request's parameters, a JSON object.
            images: number of images in the request.
            now_unix_us: the time in microseconds of Unix time, for tests.

        Returns:
            A sentence for an error with the code UNAVAILABLE; None if the request is taken.
        """
        self._last_request_s = self._clock()
        self._asked += 1
        self._wake.set()
        reason = self._overload(_left_s(parameters, now_unix_us or time.time_ns() // 1000))
        if reason is None:
            self._admitted += 1
            self._images += (images - self._images) * _IMAGES_WEIGHT
        return reason

    def _overload(self, left_s: float) -> str | None:
        """Explain why a request that has this much time left would be answered too late, if so."""
        if self._last_request_s - self._backlog.time_s > _STALE_S:
            return None
        # Requests that this step had not passed on when the metrics were read were in no later
        # queue then, so they come on top of `pending`.
        waiting = self._backlog.pending + self._admitted - self._passed_on_before
        # Of those that were in this step's own queue then, the ones asked about since have left it.
        waiting += max(0, self._backlog.pending_here - (self._asked - self._asked_before))
        wait_s = waiting * self._busy_s / self._done if self._done else 0.0
        many = waiting * self._images >= self._always
        if wait_s <= left_s and not (many and wait_s > self._max_wait_s):
            return None
        until = "" if left_s == math.inf else f"; {left_s:.1f} s are left until the deadline"
        return (
            f"The server is overloaded: {waiting} requests are waiting, for about "
            f"{wait_s:.1f} s{until}. Try again later, or ask another server."
        )

    def passed_on(self, requests: int | None = None) -> None:
        """Note that requests taken so far, by default all, have been passed on to the next step."""
        self._passed_on = self._admitted if requests is None else self._passed_on + requests

    def ended_here(self) -> None:
        """Note that a request that was taken is part of no backlog: it ends in this step.

        The same holds for one that waits here where it holds up no other.
        """
        self._admitted -= 1

    def read(self) -> None:
        """Read the metrics once. If they cannot be read, the last reading is not used either."""
        asked, passed_on = self._asked, self._passed_on
        try:
            now = read_backlog(self._fetch(), self._models, self._clock())
        except (OSError, ValueError) as error:
            if self._backlog.time_s != float("-inf"):
                logger.warning("The metrics cannot be read, so nothing is refused: %s", error)
            self._backlog = Backlog(0, 0, 0, float("-inf"))
            return
        before, self._backlog = self._backlog, now
        # Both were counted just before the reading: by then, these had left this step's queue ...
        self._asked_before = asked
        # ... and these were in a later queue (and so in `pending`), or done.
        self._passed_on_before = passed_on
        seconds = now.time_s - before.time_s
        # The rate is known only from intervals in which the server always had requests waiting.
        if not before.idle and not now.idle and seconds < _STALE_S:
            self._done += now.done - before.done
            self._busy_s += seconds
        if self._done > _WINDOW_REQUESTS:
            self._done, self._busy_s = self._done / 2, self._busy_s / 2

    def close(self) -> None:
        """Stop the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed:
            self.read()
            time.sleep(_INTERVAL_S)
            if self._clock() - self._last_request_s > _IDLE_S and self._backlog.idle:
                self._wake.clear()
                self._wake.wait()


def start_admission(models: Sequence[str], config: Mapping[str, Any]) -> Admission:
    """Start the admission of a served step from its configuration.

    Args:
        models: names of the step and of those after it, in their order.
        config: configuration of the step. Its parameter `max_wait_ms` limits how long requests may
            wait; without it, only requests with a deadline are refused. Three of its largest
            batches may always wait: one that is computed, one to follow, and what came and went
            since the last reading.
    """
    limit = config["parameters"].get("max_wait_ms", {}).get("string_value", "inf")
    url = os.environ.get(METRICS_URL_VARIABLE, _DEFAULT_URL)
    return Admission(models, 3 * config["max_batch_size"], float(limit) / 1000, url=url)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_STALE_S) as response:
        return response.read().decode()


def _left_s(parameters: str, now_us: int) -> float:
    deadline_us = json.loads(parameters or "{}").get(PARAMETER)
    return (deadline_us - now_us) / 1e6 if isinstance(deadline_us, int) else math.inf
