"""Triton model that stands in for `maniqa_moe`: how bright an image is.

Its deviation is 0.25 to 0.5, the more the brighter, and a familiar image is a bright one.
"""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils

PATCHES = 7  # along a side, as the shipped scorer
REACH = 2.0  # of the card's calibration, see `repository.CALIBRATION`


class TritonPythonModel:
    """QUALITY_VIEW__0 uint8 (B, 224, 224, 3) -> the outputs of the scorer, float32."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        self._outputs = [output["name"] for output in config["output"]]
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
        reach = REACH * (0.25 + score / 20)
        interval = np.stack([score - reach, score + reach], axis=1)
        familiarity = score[:, None] / 5
        maps = (brightness, np.ones_like(brightness))
        tensors = (score[:, None], gate, *maps, interval, familiarity)[: len(self._outputs)]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, tensor.astype(np.float32))
                for name, tensor in zip(self._outputs, tensors, strict=True)
            ]
        )
