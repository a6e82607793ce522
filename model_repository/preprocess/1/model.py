"""Triton model `preprocess`: encoded image files to the views of the two networks."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from ma_agiqa.errors import ImageError
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.serving import deadlines
from ma_agiqa.serving.admission import start_admission
from ma_agiqa.serving.metrics import StepMetrics, counted
from ma_agiqa.serving.replies import Replies

Views = tuple[np.ndarray, np.ndarray]


class TritonPythonModel:
    """IMAGE (B, 1) bytes -> QUALITY_VIEW, SEMANTIC_VIEW uint8 (B, side, side, 3)."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        sides = {tensor["name"]: int(tensor["dims"][0]) for tensor in config["output"]}
        self._semantic_size = sides["SEMANTIC_VIEW"]
        # The images of a batch run in parallel: decoders and resizers release Python's lock.
        self._pool = ThreadPoolExecutor(_cores())
        self._replies = Replies(pb_utils, "preprocess")
        self.metrics = StepMetrics(pb_utils, "preprocess", images="IMAGE")
        cv2.setNumThreads(1)  # otherwise each of these threads starts as many of its own
        self._admission = start_admission(("preprocess", "mplug_owl2", "maniqa_moe"), config)

    @counted
    def execute(self, requests: list[Any]) -> list[Any]:
        work = [self._begin(request) for request in requests]
        answers = [self._respond(batch) if isinstance(batch, list) else batch for batch in work]
        self._admission.passed_on()
        return answers

    def finalize(self) -> None:
        self._admission.close()
        self._pool.shutdown()
        self.metrics.meter.close()

    def _begin(self, request: Any) -> Any:
        """Queue the images of a request: a list of futures, or the refusal that answers it."""
        parameters = request.parameters()
        if reason := deadlines.refusal(parameters, "preprocess"):
            return self._replies.refusal(reason, "CANCELLED")
        if reason := self._admission.refusal(parameters, _input(request).shape()[0]):
            return self._replies.refusal(reason, "UNAVAILABLE")
        if reason := deadlines.given_up(request, "preprocess"):
            self._admission.ended_here()
            return self._replies.refusal(reason, "CANCELLED")
        files = [bytes(file) for file in _input(request).as_numpy().ravel()]
        return [self._pool.submit(self._views, file) for file in files]

    def _views(self, file: bytes) -> Views:
        with self.metrics.time_decoding():
            rgb = decode(file)
        self.metrics.note_size(rgb.shape[0] * rgb.shape[1])
        return quality_view(rgb), semantic_view(rgb, self._semantic_size)

    def _respond(self, batch: list[Any]) -> Any:
        try:
            quality, semantic = zip(*(future.result() for future in batch), strict=True)
        except ImageError as error:
            self._admission.ended_here()
            return self._replies.refusal(error, "INVALID_ARG")
        except Exception as error:  # one request's failure must not reach its neighbors
            return self._replies.failure(
                error, "The image could not be prepared; the server's log says why."
            )
        return self._replies.tensors(
            {"QUALITY_VIEW": np.stack(quality), "SEMANTIC_VIEW": np.stack(semantic)}
        )


def _cores() -> int:
    """Number of cores. A container sees those of its machine; MA_AGIQA_CORES says which share."""
    return int(os.environ.get("MA_AGIQA_CORES") or len(os.sched_getaffinity(0)))


def _input(request: Any) -> Any:
    return pb_utils.get_input_tensor_by_name(request, "IMAGE")
