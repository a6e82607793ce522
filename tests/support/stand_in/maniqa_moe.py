"""Triton model that stands in for `maniqa_moe`: how bright an image is."""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils

PATCHES = 14
OUTPUTS = ("SCORE__0", "GATE__1", "PATCH_SCORE__2", "PATCH_WEIGHT__3")


class TritonPythonModel:
    """QUALITY_VIEW__0 uint8 (B, 224, 224, 3) -> the four outputs of the scorer, float32."""

    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self._seconds_per_image = float(parameters["seconds_per_image"]["string_value"])

    def execute(self, requests):
        return [self._score(request) for request in requests]

    def _score(self, request):
        view = pb_utils.get_input_tensor_by_name(request, "QUALITY_VIEW__0").as_numpy()
        count, side = len(view), view.shape[1] // PATCHES
        time.sleep(self._seconds_per_image * count)
        # Sums of integers: the same in every batch.
        patches = view.reshape(count, PATCHES, side, PATCHES, side, 3).sum((2, 4), dtype=np.int64)
        brightness = patches.sum(3) / (side * side * 3 * 51)  # 255 / 51 = 5
        score = patches.sum((1, 2, 3)) / (view[0].size * 51)
        gate = 0.5 + patches.sum((1, 2)) / (view[0].size // 3 * 510)  # 0.5 to 1
        tensors = (score[:, None], gate, brightness, np.ones_like(brightness))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, tensor.astype(np.float32))
                for name, tensor in zip(OUTPUTS, tensors, strict=True)
            ]
        )
