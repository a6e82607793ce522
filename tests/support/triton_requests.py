"""Requests by Triton's bare client, without the SDK."""

from typing import Any

import numpy as np
import tritonclient.grpc
from tritonclient.grpc import InferenceServerClient, InferInput


def image_tensor(*files: bytes) -> InferInput:
    """IMAGE of a request with some image files."""
    tensor = InferInput("IMAGE", [len(files), 1], "BYTES")
    return tensor.set_data_from_numpy(np.array([[file] for file in files], np.object_))


def infer(client: InferenceServerClient, *files: bytes, **parameters: Any) -> dict[str, np.ndarray]:
    """Send image files to the ensemble in one request; return its outputs by name."""
    tensor = image_tensor(*files)
    result = client.infer("ma_agiqa", [tensor], parameters=parameters, client_timeout=120)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def statistics(server: Any, model: str = "ma_agiqa") -> Any:
    """What a server says that a model has done, as `ModelStatistics`."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        return client.get_inference_statistics(model).model_stats[0]
