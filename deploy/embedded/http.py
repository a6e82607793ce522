"""What the program that runs a server asks of it: test scores, and the state of its models.

It goes over HTTP, which is closed to everybody else: the server's certificate and what it asks of
clients do not matter there.
"""

import http.client
import json
import struct
import zlib
from typing import Any
from urllib.parse import urlsplit

from embedded.security import CLOSED_HEADER, Security

__all__ = ["BusyError", "RefusedError", "TritonHttp"]

_HEADER_SIZE = "Inference-Header-Content-Length"
_BUSY = (http.HTTPStatus.SERVICE_UNAVAILABLE, 499)  # 499: cancelled
_FAULTS = (OSError, http.client.HTTPException)


class RefusedError(Exception):
    """The server answered with an error, or did not answer; the message is one sentence."""


class BusyError(RefusedError):
    """The server has no time: it refused for now, or did not answer in time."""


class TritonHttp:
    """Asks one server; a connection for each request."""

    def __init__(self, http_url: str, security: Security):
        """Prepare; nothing is sent yet.

        Args:
            http_url: http://host:port.
            security: of the server.
        """
        self._address = urlsplit(http_url)
        self._headers = {CLOSED_HEADER: security.closed_key}

    def score_test_image(self, ensemble: str, timeout_s: float) -> list[float]:
        """SCORE of a generated image; empty if the server gave an empty tensor.

        Raises:
            RefusedError: there is none.
        """
        body, header_size = _request()
        headers = {_HEADER_SIZE: str(header_size)}
        answer, json_size = self._ask(
            "POST", f"/v2/models/{ensemble}/infer", timeout_s, body, headers
        )
        return [score for (score,) in struct.iter_unpack("<f", answer[json_size:])]

    def get(self, path: str, timeout_s: float) -> Any:
        """The JSON at a path such as /v2/models/stats; raises `RefusedError`."""
        return json.loads(self._ask("GET", path, timeout_s)[0])

    def states(self, timeout_s: float) -> dict[str, str]:
        """State of each model that has been loaded; raises `RefusedError`."""
        models = json.loads(self._ask("POST", "/v2/repository/index", timeout_s, b"{}")[0])
        return {model["name"]: model["state"] for model in models if model.get("state")}

    def unload(self, model: str, timeout_s: float) -> None:
        """Have a model unloaded, which goes on after this; raises `RefusedError`."""
        self._ask("POST", f"/v2/repository/models/{model}/unload", timeout_s, b"{}")

    def _ask(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[bytes, int]:
        """The answer, and the size of its JSON part if tensors follow it."""
        address = self._address.hostname, self._address.port
        connection = http.client.HTTPConnection(*address, timeout=timeout_s)
        try:
            connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError as error:
            raise BusyError(f"no answer within {timeout_s:g} s") from error
        except _FAULTS as error:
            raise RefusedError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise (BusyError if response.status in _BUSY else RefusedError)(_sentence(answer))
        return answer, int(response.headers.get(_HEADER_SIZE, len(answer)))


def _sentence(answer: bytes) -> str:
    try:
        text = str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        text = answer.decode(errors="replace")
    return text.split("\n")[0] or "no reason given"


def _request() -> tuple[bytes, int]:
    """Body of an inference request with one image, and the size of its JSON part."""
    image = struct.pack("<I", len(_TEST_IMAGE)) + _TEST_IMAGE
    tensor = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES"}
    binary = {"parameters": {"binary_data_size": len(image)}}
    score = {"name": "SCORE", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor | binary], "outputs": [score]}).encode()
    return header + image, len(header)


def _png() -> bytes:
    """PNG of a color gradient, 160x120 RGB."""
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
