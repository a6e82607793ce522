"""Load control: which requests are refused when more come than the server can compute.

An overloaded server that takes every request makes all of them wait until none is answered in time.
So the first step, before it decodes anything, refuses what could not be answered in time. Where
decoding itself is slow, it refuses the oldest of its own queue until the rest can be done in time.

The limit is here and not in Triton's `max_queue_size`, because a rejection by that stalls the
batches of 2.51 by half a second each (docs/capacity.md has the numbers), and because it would be
at a later step, after the decoding.

The number of waiting requests, and how long batches of each size take, come from the server's own
metrics (`backlog`). Without metrics, nothing is refused.

A request with the parameter `traffic_class` "bulk" gets a third of the room, so that a job that
can wait is refused long before people are.
"""

import http.client
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ma_agiqa.serving import deadlines
from ma_agiqa.serving.backlog import UNREAD, Backlog, BatchTime, fetch_metrics, read_backlog

METRICS_URL_VARIABLE = "MA_AGIQA_METRICS_URL"
"""Environment variable with the address of the server's metrics, if it is not port 8002 here."""

_DEFAULT_URL = "http://127.0.0.1:8002/metrics"
_INTERVAL_S = 0.1  # between two readings of the metrics
_IDLE_S = 2.0  # after this long without requests, the metrics are no longer read
_FORGET_S = 1.0  # after this long with nothing to do, batches may take another time than before
_STALE_S = 1.0  # an older reading is not used
_WINDOW_IMAGES = 64  # the time of an image in the first step is learned from about this many
_PERHAPS_FASTER = 100.0  # times that batches are perhaps faster than before an idle time
_MARGIN = 1.2  # an answer may take this much longer than estimated
_IMAGES_WEIGHT = 1 / 32  # weight of the last request in the average number of images

TRAFFIC_CLASS = "traffic_class"
"""Request parameter: "bulk" for work that can wait; without it, a request is interactive."""

_SHARES = {"interactive": 1.0, "bulk": 1 / 3}  # of the room, for each traffic class

logger = logging.getLogger(__name__)


class Admission:
    """Decides which requests are refused, from the metrics that a thread of its own reads."""

    def __init__(
        self,
        models: Sequence[str],
        largest: int,
        max_wait_s: float,
        fetch: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        running: int | None = None,
        batch: int | None = None,
    ) -> None:
        """Start the thread.

        Args:
            models: names of this step and of those after it, in their order.
            largest: maximum number of images in a batch. Three such batches may always wait,
                however slow the steps are: one that is computed, one to follow, and what came and
                went since the last reading.
            max_wait_s: further images are taken only if they wait no longer than this.
            fetch: returns the metrics as text.
            clock: returns seconds, for tests.
            running: batches that the later steps compute at a time, which are in no queue; default:
                one for each.
            batch: images in a batch that the later steps make of many waiting requests; default:
                as many as it may have.
        """
        self._models, self._clock = models, clock
        self._running = len(models) - 1 if running is None else running
        self._largest, self._max_wait_s = largest, max_wait_s
        self._batch = batch or largest
        self._fetch = fetch
        self._backlog = UNREAD
        self._asked = self._asked_before = 0
        self._admitted = self._passed_on = self._passed_on_before = 0
        self._now, self._before = BatchTime(), BatchTime()  # of this busy time, and the last one
        self._here_images, self._here_s = 0.0, 0.0  # passed on while requests waited for this step
        self._start = UNREAD  # the reading at which this busy time began
        self._busy_since: Backlog | None = None  # the reading that the next interval begins with
        self._busy_until_s = float("-inf")
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
            parameters: the request's parameters, a JSON object, for which `unknown_class` is None.
            images: number of images in the request.
            now_unix_us: the time in microseconds of Unix time, for tests.

        Returns:
            A sentence for an error with the code UNAVAILABLE; None if the request is taken.
        """
        self._last_request_s = self._clock()
        self._asked += 1
        self._wake.set()
        now_ns = time.time_ns() if now_unix_us is None else now_unix_us * 1000
        left_s = deadlines.left_s(parameters, lambda: now_ns)
        reason = self._overload(left_s, images, _SHARES[_traffic_class(parameters)])
        if reason is None:
            self._admitted += 1
            self._images += (images - self._images) * _IMAGES_WEIGHT
        return reason

    def _overload(self, left_s: float, images: int, share: float) -> str | None:
        """Explain why a request that has this much time left would be answered too late, if so.

        Args:
            left_s: seconds until its deadline.
            images: number of its images.
            share: of the room for waiting images that it may find used, 0 to 1.
        """
        if self._last_request_s - self._backlog.time_s > _STALE_S:
            return None
        # Requests that this step had not passed on when the metrics were read were in no later
        # queue then, so they come on top of `pending`.
        here = self._admitted - self._passed_on_before
        # Of those that were in this step's own queue then, the ones asked about since have left it.
        here += max(0, self._backlog.pending_here - (self._asked - self._asked_before))
        waiting = self._backlog.pending + here
        ahead = waiting * self._images
        # Batches do not get larger where this step is the slow one.
        here_s = here * self._images * self._here_s / max(self._here_images, 1.0)
        wait_s = max(self._seconds(ahead), here_s)
        # It comes after the batches that the later steps compute, which are in no queue, and the
        # full ones that wait, in a batch of its own.
        running_s = self._running * self._seconds(min(ahead, self._batch))
        full_s = ahead // self._batch * self._seconds(self._batch)
        own_s = self._seconds(max(images, min(ahead + images, self._batch)))
        many = ahead >= 3 * self._largest * share
        answer_s = _MARGIN * (max(running_s + full_s, here_s) + own_s)
        if answer_s <= left_s and not (many and wait_s > self._max_wait_s * share):
            return None
        until = "" if left_s == math.inf else f"; {left_s:.1f} s are left until the deadline"
        return (
            f"The server is overloaded: {waiting} requests are waiting, for about "
            f"{wait_s:.1f} s{until}. Try again later, or ask another server."
        )

    def _seconds(self, images: float) -> float:
        """Estimate how long images take."""
        if self._now.known or not self._before.known:
            return self._now.seconds(images, self._batch)
        return self._share() * self._before.seconds(images, self._batch)

    def _share(self) -> float:
        """The least time that batches may take, as a share of what they took before an idle time.

        A server may have become faster meanwhile. But what it has done since, and a full batch that
        it computes now, have taken all the time since.
        """
        images = self._backlog.images - self._start.images + self._batch
        before_s = self._before.seconds(images, self._batch)
        passed_s = self._backlog.time_s - self._start.time_s
        return min(max(passed_s / before_s, 1 / _PERHAPS_FASTER), 1.0)

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
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._backlog is not UNREAD:
                logger.warning("The metrics cannot be read, so nothing is refused: %s", error)
            self._backlog, self._busy_since = UNREAD, None
            return
        before, self._backlog = self._backlog, now
        passed_on_since = (passed_on - self._passed_on_before) * self._images
        # Both were counted just before the reading: by then, these had left this step's queue ...
        self._asked_before = asked
        # ... and these were in a later queue (and so in `pending`), or done.
        self._passed_on_before = passed_on
        self._learn(before, now, passed_on_since)

    def _learn(self, before: Backlog, now: Backlog, passed_on: float) -> None:
        """Learn how long batches take from two readings, between which images were passed on."""
        if self._busy_until_s < now.time_s - _FORGET_S:
            if self._now.known:
                self._before = self._now
            self._now, self._start = BatchTime(), now
            self._here_images, self._here_s = 0.0, 0.0
        if now.time_s - before.time_s > _STALE_S:
            self._busy_since = None if now.idle else now
        elif now.idle or self._busy_since is None:
            self._busy_since = None if now.idle else now
            self._correct(now.batches - before.batches, now, before)
        elif now.batches > self._busy_since.batches and now.images > self._busy_since.images:
            since, self._busy_since = self._busy_since, now
            batches, images = now.batches - since.batches, now.images - since.images
            self._now.learn(batches, images, now.time_s - since.time_s)
        if before.pending_here and now.pending_here and now.time_s - before.time_s <= _STALE_S:
            keep = _WINDOW_IMAGES / (_WINDOW_IMAGES + passed_on)
            self._here_images = self._here_images * keep + passed_on
            self._here_s = self._here_s * keep + now.time_s - before.time_s
        if not now.idle:
            self._busy_until_s = now.time_s

    def _correct(self, ended: int, now: Backlog, before: Backlog) -> None:
        """Learn from batches that ended while the server was idle at times, if they were faster.

        The first of them may have begun earlier; the others took the interval at most.
        """
        images = (now.images - before.images) * (ended - 1) / max(ended, 1)
        seconds = now.time_s - before.time_s
        if ended > 1 and images > 0 and self._now.seconds(images, self._batch) > seconds:
            self._now.learn(ended - 1, images, seconds)

    def close(self) -> None:
        """Stop the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self._wake.clear()  # before it looks, so that what comes later ends the wait
            if self._closed:
                return
            self.read()
            time.sleep(_INTERVAL_S)
            if self._clock() - self._last_request_s > _IDLE_S and self._backlog.idle:
                self._wake.wait()


def unknown_class(parameters: str) -> str | None:
    """Explain that a request's traffic class is unknown, if so: a sentence for INVALID_ARGUMENT.

    Args:
        parameters: the request's parameters, a JSON object.
    """
    given = _traffic_class(parameters)
    if given in _SHARES:
        return None
    return (
        f"The request's parameter {TRAFFIC_CLASS} is {given!r}; expected 'interactive' or 'bulk'. "
        "Leave it out for an interactive request."
    )


def _traffic_class(parameters: str) -> str:
    return json.loads(parameters or "{}").get(TRAFFIC_CLASS, "interactive")


def start_admission(models: Sequence[str], config: Mapping[str, Any]) -> Admission:
    """Start the admission of a served step from its configuration.

    Args:
        models: names of the step and of those after it, in their order.
        config: configuration of the step. Its parameter `max_wait_ms` limits how long requests may
            wait; without it, only requests with a deadline are refused. `running_batches` says how
            many batches the later steps compute at a time; without it, each computes one. They are
            taken to make batches of the largest preferred size, as the step itself does.
    """
    given = {name: value["string_value"] for name, value in config["parameters"].items()}
    running = given.get("running_batches")
    preferred = config.get("dynamic_batching", {}).get("preferred_batch_size")
    return Admission(
        models,
        config["max_batch_size"],
        float(given.get("max_wait_ms", "inf")) / 1000,
        partial(fetch_metrics, os.environ.get(METRICS_URL_VARIABLE, _DEFAULT_URL)),
        running=None if running is None else int(running),
        batch=max(preferred) if preferred else None,
    )
