"""Triton model `mplug_owl2`: views to the two prompt embeddings of the frozen LMM (Eq. 3)."""

import json
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from ma_agiqa.presets import build_embedder

OUTPUTS = {"SEMANTIC": "semantic", "COHERENCE": "coherence"}


class TritonPythonModel:
    """SEMANTIC_VIEW uint8 (B, side, side, 3) -> SEMANTIC, COHERENCE float32 (B, hidden)."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        on_gpu = args["model_instance_kind"] == "GPU"
        self._embedder = build_embedder(
            source=parameters["weights"]["string_value"],
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu",
            dtype=parameters["dtype"]["string_value"],
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        views = [
            torch.from_dlpack(pb_utils.get_input_tensor_by_name(r, "SEMANTIC_VIEW").to_dlpack())
            for r in requests
        ]
        try:
            embeddings = self._embedder(torch.cat(views))
        except Exception as error:  # answer every request; details are for the log alone
            pb_utils.Logger.log_error(f"mplug_owl2 failed: {error!r}")
            return [_failure() for _ in requests]
        sizes = [len(view) for view in views]
        parts = [embeddings[prompt].split(sizes) for prompt in OUTPUTS.values()]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor.from_dlpack(name, part.contiguous())
                    for name, part in zip(OUTPUTS, split, strict=True)
                ]
            )
            for split in zip(*parts, strict=True)
        ]


def _failure() -> Any:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(
            "The prompt embeddings could not be computed; the server's log says why.",
            pb_utils.TritonError.INTERNAL,
        )
    )
