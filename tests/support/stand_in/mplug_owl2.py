"""Triton model that stands in for `mplug_owl2`: embeddings of zeros, alignment by rule."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """SEMANTIC_VIEW (B, side, side, 3) -> SEMANTIC, COHERENCE float32 (B, size).

    With PROMPT_TEXT (B, 1): also ALIGNMENT float32 (B, 1), a hundredth of the prompt's length.
    """

    def initialize(self, args):
        outputs = json.loads(args["model_config"])["output"]
        self._sizes = {output["name"]: int(output["dims"][0]) for output in outputs}

    def execute(self, requests):
        return [self._embed(request) for request in requests]

    def _embed(self, request):
        count = pb_utils.get_input_tensor_by_name(request, "SEMANTIC_VIEW").shape()[0]
        tensors = {
            name: np.zeros((count, self._sizes[name]), np.float32)
            for name in ("SEMANTIC", "COHERENCE")
        }
        prompts = pb_utils.get_input_tensor_by_name(request, "PROMPT_TEXT")
        if prompts is not None:
            texts = [text.decode() for text in prompts.as_numpy().ravel()]
            if any(len(text) > 100 for text in texts):
                error = "The prompt has over 100 characters. Shorten it."
                return pb_utils.InferenceResponse(
                    error=pb_utils.TritonError(error, pb_utils.TritonError.INVALID_ARG)
                )
            lengths = [[len(text) / 100] for text in texts]
            tensors["ALIGNMENT"] = np.array(lengths, np.float32)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, tensor) for name, tensor in tensors.items()]
        )
