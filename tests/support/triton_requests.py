"""Requests by Triton's bare client, without the SDK."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from support.waiting import settled


def image_tensor(*files: bytes) -> InferInput:
    """IMAGE of a request with some image files."""
    tensor = InferInput("IMAGE", [len(files), 1], "BYTES")
    return tensor.set_data_from_numpy(np.array([[file] for file in files], np.object_))


def infer(client: InferenceServerClient, *files: bytes, **parameters: Any) -> dict[str, np.ndarray]:
    """Send image files to the ensemble in one request; return its outputs by name."""
    tensor = image_tensor(*files)
    result = client.infer("ma_agiqa", [tensor], parameters=parameters, client_timeout=120)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def statistics(
    client: InferenceServerClient,
    model: str = "ma_agiqa",
    reached: Callable[[Any], bool] = lambda _: True,
) -> Any:
    """What a model has done, as `ModelStatistics`, once the server has caught up with its answers.

    Args:
        client: of the server.
        model: its name.
        reached: whether the statistics are what the test expects; they are waited for.
    """
    return settled(lambda: client.get_inference_statistics(model).model_stats[0], reached)


def images_computed(server: Any, model: str = "ma_agiqa", at_least: int = 0) -> int:
    """How many images a model has computed since the server started; waits for `at_least`."""
    with InferenceServerClient(server.grpc_url) as client:
        found = statistics(client, model, lambda found: found.inference_count >= at_least)
    return found.inference_count
