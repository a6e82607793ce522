"""Triton model that stands in for `mplug_owl2`: embeddings of zeros."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """SEMANTIC_VIEW (B, side, side, 3) -> SEMANTIC, COHERENCE float32 (B, size)."""

    def initialize(self, args):
        outputs = json.loads(args["model_config"])["output"]
        self._sizes = {output["name"]: int(output["dims"][0]) for output in outputs}

    def execute(self, requests):
        return [self._embed(request) for request in requests]

    def _embed(self, request):
        count = pb_utils.get_input_tensor_by_name(request, "SEMANTIC_VIEW").shape()[0]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.zeros((count, self._sizes[name]), np.float32))
                for name in ("SEMANTIC", "COHERENCE")
            ]
        )
