"""One real inference through the ensemble, so that "ready" means that images are scored."""

import math
from pathlib import Path

from embedded.errors import ServerFailedError
from embedded.http import RefusedError, TritonHttp
from embedded.served_model import ServedModel

__all__ = ["ENSEMBLE", "run_self_test"]

ENSEMBLE = "ma_agiqa"
TIMEOUT_S = 300.0
"""Generous: the first inference of a large model compiles and pages in its weights."""


def run_self_test(server: TritonHttp, log_file: Path) -> ServedModel:
    """Score a generated image and return what is served.

    Raises:
        ServerFailedError: the ensemble is missing, fails, or returns an empty or non-finite score.
    """
    try:
        scores = server.score_test_image(ENSEMBLE, TIMEOUT_S)
        parameters = server.get(f"/v2/models/{ENSEMBLE}/config", TIMEOUT_S)["parameters"]
    except RefusedError as error:
        raise ServerFailedError(
            f"The server started, but scoring a test image failed: {error} Its log: {log_file}",
            log_file,
        ) from error
    if not scores or not all(map(math.isfinite, scores)):
        raise ServerFailedError(
            f"The server started, but the SCORE of a test image is {scores or 'empty'}, expected a "
            "finite number: export the model again with `python export/to_triton.py`. "
            f"Its log: {log_file}",
            log_file,
        )
    text = {name: value["string_value"] for name, value in parameters.items()}
    return ServedModel(name=text.get("name", ENSEMBLE), note=text.get("note", ""))
