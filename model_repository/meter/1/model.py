"""Triton model `meter`: passes scores, gates and familiarity on, unchanged, and counts them.

The last step of the chain, because the scorer before it is TorchScript, which cannot count.
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ma_agiqa.serving.metrics import ScoreMetrics, StepMetrics, counted, is_canary
from ma_agiqa.serving.replies import Replies
from ma_agiqa.tensors import GATE_ORDER


class TritonPythonModel:
    """UNCOUNTED_SCORE float32 (B, 1), UNCOUNTED_GATE float32 (B, 3) -> SCORE, GATE.

    With a calibrated scorer also UNCOUNTED_FAMILIARITY float32 (B, 1) -> FAMILIARITY. With ARRIVED
    float64 (B, 1), the time since then is counted.
    """

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        self._names = [output["name"] for output in config["output"]]
        self.metrics = StepMetrics(pb_utils, "meter", images="UNCOUNTED_SCORE")
        quantiles = json.loads(parameters["mos_quantiles"]["string_value"])
        self._scores = ScoreMetrics(self.metrics.meter, quantiles, GATE_ORDER)
        self._replies = Replies(pb_utils, "meter")

    @counted
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._pass_on(request) for request in requests]

    def finalize(self) -> None:
        self.metrics.meter.close()

    def _pass_on(self, request: Any) -> Any:
        tensors = {name: _input(request, f"UNCOUNTED_{name}") for name in self._names}
        try:
            if not is_canary(request):
                familiarity = tensors.get("FAMILIARITY", np.empty((0, 1)))
                columns = (tensors["SCORE"], familiarity)
                scores, familiar = (column[:, 0].tolist() for column in columns)
                self._scores.count(scores, tensors["GATE"].tolist(), familiar)
                if (arrived := _input(request, "ARRIVED")) is not None:
                    self.metrics.note_request(float(arrived.min()))
        except Exception as error:  # no request fails because of its metrics
            self.metrics.report(error)
        return self._replies.tensors(tensors)


def _input(request: Any, name: str) -> Any:
    """The values of an input; None if the request has none of this name."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
