"""Triton model `preprocess`: encoded image files to the views of the two networks.

A request is answered when its own images are ready, by a thread, so that none waits for those of
another request. Refusals are returned by `execute`, all of a batch together, because each answer by
a thread of its own is an exchange between processes.
"""

import json
import os
import threading
import time
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from ma_agiqa.errors import ImageError
from ma_agiqa.images.preparation import OverloadError, Preparation, Together
from ma_agiqa.serving import deadlines
from ma_agiqa.serving.admission import start_admission, unknown_class
from ma_agiqa.serving.metrics import StepMetrics
from ma_agiqa.serving.replies import Replies


class TritonPythonModel:
    """IMAGE (B, 1) bytes -> QUALITY_VIEW, SEMANTIC_VIEW uint8 (B, side, side, 3).

    Also ARRIVED float64 (B, 1), the time on the monotonic clock at which the request was taken.
    """

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        sides = {tensor["name"]: int(tensor["dims"][0]) for tensor in config["output"]}
        cv2.setNumThreads(1)  # otherwise each decoding thread starts as many of its own
        self.preparation = Preparation(sides["SEMANTIC_VIEW"], _cores())
        self.replies = Replies(pb_utils, "preprocess")
        self.metrics = StepMetrics(pb_utils, "preprocess", images="IMAGE")
        self._admission = start_admission(("preprocess", "mplug_owl2", "maniqa_moe"), config)
        self._lock, self._in_flight, self._busy_since_s = threading.Lock(), 0, 0.0

    def execute(self, requests: list[Any]) -> list[Any]:
        """Begin the work; return the refusals, and None for what is answered later."""
        arrived_s = time.monotonic()
        self.metrics.count_batch(requests)
        # What waits, waits in the server's queue, which admission reads, and not here.
        self.preparation.wait_for_room()
        return [self._begin(request, arrived_s) for request in requests]

    def finalize(self) -> None:
        self.preparation.close()  # answers everything in flight
        self._admission.close()
        self.metrics.meter.close()

    def count_answer(self, request: Any, response: Any) -> None:
        """Count an answer; no request fails because of its metrics."""
        try:
            self.metrics.count_answer(request, response)
        except Exception as error:
            self.metrics.report(error)

    def leave_backlog(self, passed_on: bool) -> None:
        """Note that a request no longer waits here: it is passed on, or in no other's way."""
        with self._lock:
            if passed_on:
                self._admission.passed_on(1)
            else:
                self._admission.ended_here()

    def note_in_flight(self, change: int) -> None:
        """Note that a request has come (1) or been answered (-1), and the busy time until now."""
        with self._lock:
            now_s = time.perf_counter()
            if self._in_flight:
                self.metrics.note_busy(now_s - self._busy_since_s)
            self._busy_since_s = now_s
            self._in_flight += change

    def _begin(self, request: Any, arrived_s: float) -> Any:
        """Begin a request, or return its refusal."""
        try:
            images = pb_utils.get_input_tensor_by_name(request, "IMAGE")
            response = self._refusal(request.parameters(), images.shape()[0])
            if response is None:
                files = [bytes(file) for file in images.as_numpy().ravel()]
                _Request(self, request, arrived_s).begin(files)
        except Exception as error:  # one request's failure must not reach its neighbors
            response = self.replies.failure(error, _FAILED)
        if response is not None:
            self.count_answer(request, response)
        return response

    def _refusal(self, parameters: str, images: int) -> Any:
        if reason := unknown_class(parameters):
            return self.replies.refusal(reason, "INVALID_ARG")
        if reason := deadlines.refusal(parameters, "preprocess"):
            return self.replies.refusal(reason, "CANCELLED")
        with self._lock:
            reason = self._admission.refusal(parameters, images)
        return self.replies.refusal(reason, "UNAVAILABLE") if reason else None


class _Request:
    """A request in flight."""

    def __init__(self, model: TritonPythonModel, request: Any, arrived_s: float) -> None:
        self._model, self._request, self._arrived_s = model, request, arrived_s
        self._sender = request.get_response_sender()
        self._parameters = request.parameters()
        self._backlog_left = threading.Lock()  # taken once, by the first thread that notes it

    def begin(self, files: list[bytes]) -> None:
        """Begin the work."""
        self._model.note_in_flight(1)
        together = Together(files, self._check, self._check_wait, self._done)
        together.start(self._model.preparation)

    def _answer(self, response: Any) -> None:
        """Send the response, and count it."""
        model = self._model
        self._leave_backlog(passed_on=not response.has_error())
        model.count_answer(self._request, response)
        try:
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # as when /dev/shm is full; Triton takes no other answer then
            model.replies.failure(error, _FAILED)
        finally:
            model.note_in_flight(-1)

    def _leave_backlog(self, passed_on: bool) -> None:
        if self._backlog_left.acquire(blocking=False):
            self._model.leave_backlog(passed_on)

    def _check(self) -> None:
        """Stop the work if no client waits for it."""
        if reason := deadlines.unwanted(self._request, "preprocess"):
            raise _UnwantedError(reason)

    def _check_wait(self, wait_s: float) -> None:
        """Stop the work if the client will have gone before a process is free."""
        self._leave_backlog(passed_on=False)  # a large picture is in no other's way
        left_s = deadlines.left_s(self._parameters)
        if wait_s > left_s:
            raise OverloadError(
                f"The server is overloaded: large images wait for about {wait_s:.1f} s; "
                f"{left_s:.1f} s are left until the deadline. Try again later, or ask another "
                "server."
            )

    def _done(self, images: Together) -> None:
        self._answer(self._response(images))

    def _response(self, images: Together) -> Any:
        replies = self._model.replies
        try:
            views = images.views()
            for each in views:
                self._model.metrics.note_decoding(each.pixels, each.seconds)
            return replies.tensors(
                {
                    "QUALITY_VIEW": np.stack([each.quality for each in views]),
                    "SEMANTIC_VIEW": np.stack([each.semantic for each in views]),
                    "ARRIVED": np.full((len(views), 1), self._arrived_s),
                }
            )
        except ImageError as error:
            return replies.refusal(error, "INVALID_ARG")
        except OverloadError as error:
            return replies.refusal(error, "UNAVAILABLE")
        except _UnwantedError as error:
            return replies.refusal(error, "CANCELLED")
        except Exception as error:
            return replies.failure(error, _FAILED)


class _UnwantedError(Exception):
    """No client waits for the request."""


_FAILED = "The image could not be prepared; the server's log says why."


def _cores() -> int:
    """Number of cores. A container sees those of its machine; MA_AGIQA_CORES says which share."""
    return int(os.environ.get("MA_AGIQA_CORES") or len(os.sched_getaffinity(0)))
