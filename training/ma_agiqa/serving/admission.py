"""How many images may wait for the steps, and who is refused when there are too many.

A server that takes more than it can do makes everybody wait until nobody gets an answer in time.
So the first step, before it decodes anything, refuses what could not be done in time. Where
decoding itself is slow, it refuses the oldest of its own queue until the rest can be done in time.

The limit is here and not in Triton's `max_queue_size`, because a rejection by that stalls the
batches of 2.51 by half a second each (docs/capacity.md has the numbers), and because it would be
at the later step, when the decoding is already paid for.

How many requests wait is read from the server's own metrics: requests that were cancelled or failed
on their way cannot be lost count of. Where there are no metrics, nothing is refused.
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

__all__ = ["METRICS_URL_VARIABLE", "Admission", "Backlog", "read_backlog", "start_admission"]

METRICS_URL_VARIABLE = "MA_AGIQA_METRICS_URL"
"""Environment variable with the address of the server's metrics, if it is not port 8002 here."""

_DEFAULT_URL = "http://127.0.0.1:8002/metrics"
_PENDING, _DONE = "nv_inference_pending_request_count{", "nv_inference_request_success{"
_INTERVAL_S = 0.1
_IDLE_S = 2.0  # without requests for so long, the metrics are not read
_STALE_S = 1.0  # an older reading says nothing
_WINDOW_REQUESTS = 256  # the rate is that of about so many last ones: several batches
_IMAGES_WEIGHT = 1 / 32  # of the last request, in the average number of images

logger = logging.getLogger(__name__)

Fetch = Callable[[], str]


@dataclass(frozen=True)
class Backlog:
    """What the metrics say at one time.

    Attributes:
        pending: requests that wait in the queues of the later steps.
        pending_here: requests that wait in the queue of the first step.
        done: requests that the second step, which is never asked in vain, has answered since the
            start.
        time_s: when it was read.
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
        models: the steps, in their order.
        time_s: when it was read.
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
    """Says who is refused, from what it reads in a thread of its own while requests come."""

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
            models: this step and those behind it, in their order.
            always: so many images may wait for them, however slow they are: enough for full
                batches.
            max_wait_s: further ones are taken only if they need not wait longer than that.
            fetch: gets the metrics; default: from `url`.
            clock: seconds, for tests.
            url: of the server's metrics.
        """
        self._models, self._clock = models, clock
        self._always, self._max_wait_s = always, max_wait_s
        self._fetch = fetch or (lambda: _get(url))
        self._backlog = Backlog(0, 0, 0, float("-inf"))
        self._asked = self._asked_before = 0
        self._admitted = self._passed_on = self._passed_on_before = 0
        self._done, self._busy_s = 0.0, 0.0  # requests done, in so many seconds with enough to do
        self._images = 1.0  # of a request, on average over the last ones
        self._last_request_s = float("-inf")
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="admission", daemon=True)
        self._thread.start()

    def refusal(
        self, parameters: str, images: int = 1, now_unix_us: int | None = None
    ) -> str | None:
        """Say why a request is refused, if it is; count it, if it is not.

        Args:
            parameters: the request's, a JSON object.
            images: that it holds.
            now_unix_us: the time, for tests.

        Returns:
            A sentence for an error with the code UNAVAILABLE; None if the request is taken.
        """
        now_s = self._clock()
        self._last_request_s = now_s
        self._asked += 1
        self._wake.set()
        if now_s - self._backlog.time_s > _STALE_S:
            return self._admit(images)
        # Those in this step are in no queue, and neither were, for the reading, those that came on.
        waiting = self._backlog.pending + self._admitted - self._passed_on_before
        waiting += max(0, self._backlog.pending_here - (self._asked - self._asked_before))
        wait_s = waiting * self._busy_s / self._done if self._done else 0.0
        left_s = _left_s(parameters, now_unix_us or time.time_ns() // 1000)
        many = waiting * self._images >= self._always
        if wait_s > left_s or (many and wait_s > self._max_wait_s):
            until = "" if left_s == math.inf else f"; {left_s:.1f} s are left until the deadline"
            return (
                f"The server has more to do than it can: {waiting} requests wait, for about "
                f"{wait_s:.1f} s{until}. Try later, or ask another server."
            )
        return self._admit(images)

    def _admit(self, images: int) -> None:
        self._admitted += 1
        self._images += (images - self._images) * _IMAGES_WEIGHT

    def passed_on(self) -> None:
        """Note that all that were taken so far have gone on to the next step."""
        self._passed_on = self._admitted

    def ended_here(self) -> None:
        """Note that one that was taken goes no further: a stream of bad files is no backlog."""
        self._admitted -= 1

    def read(self) -> None:
        """Read the metrics once; what cannot be read counts as never read."""
        asked, passed_on = self._asked, self._passed_on
        try:
            now = read_backlog(self._fetch(), self._models, self._clock())
        except (OSError, ValueError) as error:
            if self._backlog.time_s != float("-inf"):
                logger.warning("The metrics cannot be read, so nothing is refused: %s", error)
            self._backlog = Backlog(0, 0, 0, float("-inf"))
            return
        before, self._backlog = self._backlog, now
        self._asked_before = asked  # these have left the queue of this step
        self._passed_on_before = passed_on  # these wait in a queue, or are done
        seconds = now.time_s - before.time_s
        # Only a server that had enough to do all the time shows how fast it is.
        if not before.idle and not now.idle and seconds < _STALE_S:
            self._done += now.done - before.done
            self._busy_s += seconds
        if self._done > _WINDOW_REQUESTS:
            self._done, self._busy_s = self._done / 2, self._busy_s / 2

    def close(self) -> None:
        """End the thread."""
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
    """Start the admission of a served step, as its configuration says.

    Args:
        models: the step and those behind it, in their order.
        config: of the step. Its parameter `max_wait_ms` says how long requests may wait; without
            it nobody is refused but for a deadline. Three of its largest batches may always wait:
            one being computed, one to follow, and what came and went since the last reading.
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
