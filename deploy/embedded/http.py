"""What the program that runs a server asks of it: test scores, and the state of its models.

It uses HTTP, where everything but health is closed to others (`security`): the server's
certificate and what it asks of gRPC clients do not matter there.
"""

import http.client
import json
import struct
import time
from typing import Any
from urllib.parse import urlsplit

from embedded.security import CLOSED_HEADER

_HEADER_SIZE = "Inference-Header-Content-Length"
_LATE = "DEADLINE_EXCEEDED"  # what a step says when it drops a request; the status is 400
_FAULTS = (OSError, http.client.HTTPException)


class RefusedError(Exception):
    """The server answered with an error, or did not answer; the message is one sentence."""


class GoneError(RefusedError):
    """The server accepts no connection, or closes it: it has ended, or is about to."""


class BusyError(RefusedError):
    """The server has no time: it refused for now, or did not answer in time."""


class TritonHttp:
    """Asks one server, by connections that stay open: it accepts no new one while it has too many.

    Only one thread at a time may use it.

    Args:
        http_url: http://host:port of the server.
        closed_key: value of `CLOSED_HEADER`, which opens what is closed.
    """

    def __init__(self, http_url: str, closed_key: str):
        self._url = http_url
        self._headers = {CLOSED_HEADER: closed_key}
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Close the connections; the next request opens another."""
        while self._connections:
            self._connections.popitem()[1].close()

    def is_ok(self, url: str, timeout_s: float) -> bool:
        """Whether GET of an address of this server returns 200."""
        try:
            self._ask("GET", url, timeout_s)
        except RefusedError:
            return False
        return True

    def score_test_image(self, ensemble: str, timeout_s: float, deadline_s: float) -> list[float]:
        """SCORE of a generated image; empty if the server returned an empty tensor.

        The parameter `canary` keeps the image out of the metrics of scores.

        Args:
            ensemble: name of the ensemble.
            timeout_s: how long to wait for the answer.
            deadline_s: after which the server may drop the request.

        Raises:
            RefusedError: there is no score.
        """
        body, header_size = _request(time.time() + deadline_s)
        headers = {_HEADER_SIZE: str(header_size)}
        url = f"{self._url}/v2/models/{ensemble}/infer"
        answer, json_size = self._ask("POST", url, timeout_s, body, headers)
        return [score for (score,) in struct.iter_unpack("<f", answer[json_size:])]

    def get(self, path: str, timeout_s: float) -> Any:
        """The JSON at a path such as /v2/models/stats; raises `RefusedError`."""
        return _parse(self._ask("GET", self._url + path, timeout_s)[0])

    def states(self, timeout_s: float) -> dict[str, str]:
        """State of each model that has been loaded; raises `RefusedError`."""
        url = f"{self._url}/v2/repository/index"
        models = _parse(self._ask("POST", url, timeout_s, b"{}")[0])
        return {model["name"]: model["state"] for model in models if model.get("state")}

    def unload(self, model: str, timeout_s: float) -> None:
        """Start the unloading of a model, which continues after this; raises `RefusedError`."""
        self._ask("POST", f"{self._url}/v2/repository/models/{model}/unload", timeout_s, b"{}")

    def _ask(
        self,
        method: str,
        url: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[bytes, int]:
        """The answer, and the size of its JSON part if tensors follow it."""
        address = urlsplit(url)
        kind = method, address.netloc  # an image that is given up costs its connection, not GET's
        kept = self._connections.pop(kind, None)
        connection = kept or http.client.HTTPConnection(address.hostname or "", address.port)
        sent = method, address.path, body, {**self._headers, **(headers or {})}
        try:
            response, answer = _exchange(connection, timeout_s, *sent)
        except TimeoutError as error:
            raise BusyError(f"no answer within {timeout_s:.3g} s") from error
        except _FAULTS as error:
            if kept:  # the server may have closed it
                return self._ask(method, url, timeout_s, body, headers)
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise GoneError(f"no answer from {address.netloc}: {reason}") from error
        self._connections[kind] = connection
        if response.status != http.HTTPStatus.OK:
            said = _sentence(answer)
            busy = response.status == http.HTTPStatus.SERVICE_UNAVAILABLE or _LATE in said
            raise (BusyError if busy else RefusedError)(said)
        return answer, int(response.headers.get(_HEADER_SIZE, len(answer)))


def _exchange(
    connection: http.client.HTTPConnection, timeout_s: float, *sent: Any
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send a request and read the answer; close the connection if that fails."""
    connection.timeout = timeout_s
    if connection.sock:
        connection.sock.settimeout(timeout_s)
    try:
        connection.request(*sent)
        response = connection.getresponse()
        return response, response.read()
    except BaseException:
        connection.close()
        raise


def _parse(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError as error:
        raise RefusedError(f"the answer is not JSON: {answer[:100]!r}") from error


def _sentence(answer: bytes) -> str:
    try:
        text = str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        text = answer.decode(errors="replace")
    return text.split("\n")[0] or "no reason given"


def _request(deadline_unix_s: float) -> tuple[bytes, int]:
    """Body of an inference request with one image, and the size of its JSON part."""
    image = struct.pack("<I", len(_TEST_IMAGE)) + _TEST_IMAGE
    tensor = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES"}
    header = json.dumps(
        {
            "id": "check",
            "parameters": {"canary": True, "deadline_unix_us": int(deadline_unix_s * 1e6)},
            "inputs": [tensor | {"parameters": {"binary_data_size": len(image)}}],
            "outputs": [{"name": "SCORE", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return header + image, len(header)


_SIDE = 64
_TEST_IMAGE = f"P6 {_SIDE} {_SIDE} 255\n".encode() + bytes(
    value for y in range(_SIDE) for x in range(_SIDE) for value in (x + 40, 3 * y, 255 - x)
)
"""A color gradient as PPM file."""
