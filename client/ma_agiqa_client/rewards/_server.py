"""An HTTP server that trainers ask for rewards; it passes the images on to a served MA-AGIQA.

`POST /` or `/score` gives rewards, `GET /health` says whether there is a server that can score.
One thread a connection; no more requests than `max_requests` are in memory at once, others wait.
"""

import logging
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore
from typing import Any

from ma_agiqa_client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    RequestCancelledError,
    ServerUnavailableError,
)
from ma_agiqa_client.rewards._batch import check_fallback, reward_batch
from ma_agiqa_client.rewards._wire import (
    MalformedRequestError,
    is_pickle,
    read_images,
    reply_fields,
    write_reply,
)
from ma_agiqa_client.scorer import Scorer

__all__ = ["RewardServer"]

_IDLE_TIMEOUT_S = 600.0
_HEALTH_TIMEOUT_S = 5.0
_MOST_DISCARDED = 2**31
_CHUNK = 2**16
_IN_FLIGHT = 32  # of one request

_STATUSES: tuple[tuple[type[ClientError], HTTPStatus], ...] = (
    (InvalidImageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ServerUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (RequestCancelledError, HTTPStatus.SERVICE_UNAVAILABLE),
    (DeadlineExceededError, HTTPStatus.GATEWAY_TIMEOUT),
    (ClientError, HTTPStatus.BAD_GATEWAY),
)

logger = logging.getLogger(__name__)


class RewardServer(ThreadingHTTPServer):
    """Serves rewards until `shutdown`. Use `serve_forever` and, at the end, `server_close`."""

    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = 256  # trainers send a whole batch at once, each image by itself

    def __init__(
        self,
        host: str,
        port: int,
        scorer: Scorer,
        *,
        fallback: float | None = None,
        max_body_bytes: int = 256 * 2**20,
        max_requests: int = 64,
    ) -> None:
        """Listen.

        Args:
            host: address to listen on.
            port: its port; 0 takes a free one, which `address` tells.
            scorer: the connection; whoever made it closes it.
            fallback: reward of an image that cannot be scored; None answers with an error.
            max_body_bytes: most bytes of a request; larger ones are refused unread.
            max_requests: requests worked on at once.

        Raises:
            OSError: the address cannot be listened on.
            ValueError: `fallback` is not finite.
        """
        self.scorer = scorer
        self.fallback = check_fallback(fallback)
        self.max_body_bytes = max_body_bytes
        self.room = BoundedSemaphore(max_requests)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> str:
        """Where it listens, as the address of a web page."""
        host, port = self.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep the log free of trainers that hang up."""
        gone = isinstance(sys.exc_info()[1], ConnectionError)
        logger.log(
            logging.DEBUG if gone else logging.ERROR, "%s hung up.", client_address, exc_info=True
        )


class _RefusedError(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"  # connections are kept
    server_version = "ma-agiqa-rewards"
    sys_version = ""
    timeout = _IDLE_TIMEOUT_S

    def do_GET(self) -> None:
        if self.path != "/health":
            self._answer(HTTPStatus.NOT_FOUND, _error(f"There is no {self.path}. GET /health."))
        elif self.server.scorer.health(timeout_s=_HEALTH_TIMEOUT_S):
            self._answer(HTTPStatus.OK, {"status": "ready"})
        else:
            sentence = "The server that scores is not ready. Check that it runs."
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _error(sentence))

    def do_POST(self) -> None:
        pickled = False
        try:
            with self.server.room:
                body = self._body()
                pickled = is_pickle(body)
                status, fields = HTTPStatus.OK, self._rewards(body)
        except _RefusedError as error:
            status, fields = error.status, _error(str(error))
        except (ConnectionError, TimeoutError):  # of the trainer's connection: nobody to answer
            raise
        except Exception:
            logger.exception("A request failed.")
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            fields = _error("The reward server failed. Its log says why.")
        self._answer(status, fields, pickled=pickled)

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request is too much for a trainer's thousands."""
        logger.debug(format, *args)

    def _rewards(self, body: bytes) -> dict[str, Any]:
        server = self.server
        try:
            rewards = reward_batch(
                server.scorer,
                read_images(body),
                fallback=server.fallback,
                max_in_flight=_IN_FLIGHT,
            )
        except MalformedRequestError as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
        except ClientError as error:
            status = next(status for kind, status in _STATUSES if isinstance(error, kind))
            raise _RefusedError(status, str(error)) from error
        return reply_fields(rewards)

    def _body(self) -> bytes:
        """Read the request's body; what is refused is discarded, so that the answer arrives."""
        length = self._length()
        reason = self._reason_to_refuse(length)
        if reason:
            self._discard(length)
            raise reason
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError(f"{len(body)} of {length} bytes arrived")
        return body

    def _length(self) -> int:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            raise _RefusedError(
                HTTPStatus.LENGTH_REQUIRED,
                f"The header Content-Length is {length!r}; expected the number of bytes.",
            )
        return int(length)

    def _reason_to_refuse(self, length: int) -> _RefusedError | None:
        if self.path not in ("/", "/score"):
            sentence = f"There is no {self.path}. POST images to / or /score."
            return _RefusedError(HTTPStatus.NOT_FOUND, sentence)
        if length > self.server.max_body_bytes:
            return _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request has {length:,} bytes; expected at most "
                f"{self.server.max_body_bytes:,}. Send fewer images at once.",
            )
        return None

    def _discard(self, length: int) -> None:
        self.close_connection = True
        left = min(length, _MOST_DISCARDED)
        while left > 0:
            read = len(self.rfile.read(min(left, _CHUNK)))
            left = left - read if read else 0

    def _answer(self, status: HTTPStatus, fields: dict[str, Any], *, pickled: bool = False) -> None:
        if status is not HTTPStatus.OK:
            logger.warning("%s: %s", status.value, fields["error"])
        content_type, body = write_reply(fields, pickled=pickled)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _error(sentence: str) -> dict[str, Any]:
    return {"error": sentence}
