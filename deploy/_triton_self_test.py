"""One real inference through the ensemble, so that "ready" means that images are scored.

It goes over HTTP, which is closed to everybody else: the server's certificate and what it asks of
clients do not matter there.
"""

import http.client
import json
import math
import struct
import zlib
from pathlib import Path
from urllib.parse import urlsplit

from _serve_errors import ServerFailedError
from _served_model import ServedModel
from _triton_security import CLOSED_HEADER, Security

__all__ = ["ENSEMBLE", "run_self_test"]

ENSEMBLE = "ma_agiqa"
_HEADER_SIZE = "Inference-Header-Content-Length"
TIMEOUT_S = 300.0
"""Generous: the first inference of a large model compiles and pages in its weights."""


def run_self_test(http_url: str, security: Security, log_file: Path) -> ServedModel:
    """Score a generated image and return what is served.

    Raises:
        ServerFailedError: the ensemble is missing, fails, or returns an empty or non-finite score.
    """
    address = urlsplit(http_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT_S)
    try:
        scores = _scores(*_ask(connection, security, "POST", "infer", *_request()))
        parameters = json.loads(_ask(connection, security, "GET", "config")[0])["parameters"]
    except (OSError, http.client.HTTPException, _RefusedError) as error:
        raise ServerFailedError(
            f"The server started, but scoring a test image failed: {error} Its log: {log_file}",
            log_file,
        ) from error
    finally:
        connection.close()
    if not scores or not all(map(math.isfinite, scores)):
        raise ServerFailedError(
            f"The server started, but the SCORE of a test image is {scores or 'empty'}, expected a "
            "finite number: export the model again with `python export/to_triton.py`. "
            f"Its log: {log_file}",
            log_file,
        )
    text = {name: value["string_value"] for name, value in parameters.items()}
    return ServedModel(name=text.get("name", ENSEMBLE), note=text.get("note", ""))


class _RefusedError(Exception):
    """The server answered with an error."""


def _ask(
    connection: http.client.HTTPConnection,
    security: Security,
    method: str,
    what: str,
    body: bytes | None = None,
    header_size: int | None = None,
) -> tuple[bytes, int]:
    """The answer, and the size of its JSON part if tensors follow it."""
    headers = {CLOSED_HEADER: security.closed_key}
    if header_size is not None:
        headers[_HEADER_SIZE] = str(header_size)
    connection.request(method, f"/v2/models/{ENSEMBLE}/{what}", body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != http.HTTPStatus.OK:
        raise _RefusedError(_sentence(answer))
    return answer, int(response.headers.get(_HEADER_SIZE, len(answer)))


def _sentence(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")


def _request() -> tuple[bytes, int]:
    """Body of an inference request with one image, and the size of its JSON part."""
    image = struct.pack("<I", len(_TEST_IMAGE)) + _TEST_IMAGE
    tensor = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES"}
    binary = {"parameters": {"binary_data_size": len(image)}}
    score = {"name": "SCORE", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor | binary], "outputs": [score]}).encode()
    return header + image, len(header)


def _scores(answer: bytes, header_size: int) -> list[float]:
    """SCORE of the test image: the float32 numbers after the JSON part."""
    return [score for (score,) in struct.iter_unpack("<f", answer[header_size:])]


def _png() -> bytes:
    """PNG of a colour gradient, 160x120 RGB."""
    rows = (
        bytes((0, *(v for x in range(160) for v in (x + 40, 2 * y, 255 - x)))) for y in range(120)
    )
    header = struct.pack(">IIBBBBB", 160, 120, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


_TEST_IMAGE = _png()
