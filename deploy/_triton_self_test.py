"""One real inference through the ensemble, so that "ready" means that images are scored."""

import io
from pathlib import Path

import numpy as np
import tritonclient.grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from _serve_errors import ServerFailedError
from _served_model import ServedModel

__all__ = ["ENSEMBLE", "run_self_test", "score_test_image"]

ENSEMBLE = "ma_agiqa"
TIMEOUT_S = 300.0
"""Generous: the first inference of a large model compiles and pages in its weights."""


def run_self_test(grpc_url: str, log_file: Path) -> ServedModel:
    """Score a generated image and return what is served.

    Raises:
        ServerFailedError: the ensemble is missing, fails, or returns an empty or non-finite score.
    """
    client = tritonclient.grpc.InferenceServerClient(grpc_url)
    try:
        score = score_test_image(client, ENSEMBLE, TIMEOUT_S)
        parameters = client.get_model_config(ENSEMBLE, client_timeout=TIMEOUT_S).config.parameters
    except InferenceServerException as error:
        raise ServerFailedError(
            f"The server started, but scoring a test image failed: {error.message()} "
            f"Its log: {log_file}",
            log_file,
        ) from error
    finally:
        client.close()
    if score is None or score.size == 0 or not np.isfinite(score).all():
        received = "empty" if score is None or score.size == 0 else score.tolist()
        raise ServerFailedError(
            f"The server started, but the SCORE of a test image is {received}, expected a finite "
            "number: export the model again with `python export/to_triton.py`. "
            f"Its log: {log_file}",
            log_file,
        )
    return ServedModel(
        name=parameters["name"].string_value if "name" in parameters else ENSEMBLE,
        note=parameters["note"].string_value if "note" in parameters else "",
    )


def score_test_image(
    client: tritonclient.grpc.InferenceServerClient, ensemble: str, timeout_s: float
) -> np.ndarray | None:
    """SCORE of the test image, float32 [1, 1]; raises `InferenceServerException`."""
    image = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[_test_image()]], dtype=np.object_))
    return client.infer(ensemble, [image], client_timeout=timeout_s).as_numpy("SCORE")


def _test_image() -> bytes:
    """PNG of a colour gradient, 160x120 RGB."""
    y, x = np.mgrid[0:120, 0:160]
    rgb = np.stack([x + 40, 2 * y, 255 - x], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()
