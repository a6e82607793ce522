"""An HTTP server that trainers ask for rewards; it sends the images to a served MA-AGIQA.

`POST /` or `/score` returns rewards, `GET /health` whether images can be scored. It needs the extra
`rewards`: FastAPI for the routes, uvicorn for the connections.

`WebGuard` refuses requests of web pages, and bodies without a length or above the largest.
"""

import asyncio
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ma_agiqa_client._programs.web_guard import WebGuard
from ma_agiqa_client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    RequestCancelledError,
    ServerUnavailableError,
)
from ma_agiqa_client.rewards._batch import check_fallback, reward_batch
from ma_agiqa_client.rewards._messages import (
    MalformedRequestError,
    is_pickle,
    read_images,
    reply_fields,
    write_reply,
)
from ma_agiqa_client.scorer import Scorer

_KEEP_ALIVE_S = 600
_SHUTDOWN_S = 3
_HEALTH_TIMEOUT_S = 5.0
_BACKLOG = 256  # trainers send a whole batch at once, each image by itself
_IN_FLIGHT = 32  # per request

_STATUSES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (MalformedRequestError, HTTPStatus.BAD_REQUEST),
    (InvalidImageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ServerUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (RequestCancelledError, HTTPStatus.SERVICE_UNAVAILABLE),
    (DeadlineExceededError, HTTPStatus.GATEWAY_TIMEOUT),
    (ClientError, HTTPStatus.BAD_GATEWAY),
)

logger = logging.getLogger(__name__)


class RewardServer:
    """Listens from its creation on, and answers while `run` runs."""

    def __init__(
        self,
        host: str,
        port: int,
        scorer: Scorer,
        *,
        fallback: float | None = None,
        max_body_bytes: int = 256 * 2**20,
        max_requests: int = 64,
        body_timeout_s: float = 120.0,
    ) -> None:
        """Listen.

        Args:
            host: address to listen on.
            port: port to listen on; 0 takes a free one, see `address`.
            scorer: the connection; it is not closed by this server.
            fallback: reward of an image that cannot be scored; None answers with an error.
            max_body_bytes: maximum size of a request, and of its images together; larger ones are
                refused.
            max_requests: maximum number of requests that are scored at the same time.
            body_timeout_s: seconds until the body of a request must have arrived.

        Raises:
            OSError: the address cannot be listened on.
            ValueError: `fallback` is not finite.
        """
        self._scorer = scorer
        self._fallback = check_fallback(fallback)
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._workers = ThreadPoolExecutor(max_requests, thread_name_prefix="reward")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        guarded = WebGuard(self._app(), host=host, max_body_bytes=max_body_bytes, has_pages=False)
        config = uvicorn.Config(
            guarded,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        self._server = uvicorn.Server(config)

    @property
    def address(self) -> str:
        """The URL of the server, such as `http://127.0.0.1:18086`."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Answer until `stop` is called, or until Ctrl-C or SIGTERM in the main thread.

        Requests in flight have 3 s to finish. Afterwards the signal is raised again.
        """
        try:
            self._server.run([self._socket])
        finally:
            self._workers.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Have `run` return."""
        self._server.should_exit = True

    def _app(self) -> FastAPI:
        handlers: dict[Any, Any] = {
            HTTPException: _on_refusal,
            ClientDisconnect: _on_disconnect,
            Exception: _on_error,
            **{kind: _on_error for kind, _ in _STATUSES},
        }
        # A redirect would be an error to clients that do not follow one when they post.
        app = FastAPI(openapi_url=None, exception_handlers=handlers, redirect_slashes=False)
        for path in ("/health", "/health/"):
            app.api_route(path, methods=["GET", "HEAD"])(self._health)
        for path in ("/", "/score", "/score/"):
            app.post(path)(self._score)
        return app

    async def _health(self, request: Request) -> Response:
        if not await asyncio.to_thread(self._scorer.health, timeout_s=_HEALTH_TIMEOUT_S):
            raise HTTPException(503, "The server that scores is not ready. Check that it runs.")
        return _reply(request, HTTPStatus.OK, {"status": "ready"})

    async def _score(self, request: Request) -> Response:
        try:
            body = await self._body(request)
            request.state.pickled = is_pickle(body)
            loop = asyncio.get_running_loop()
            fields = await loop.run_in_executor(self._workers, self._rewards, body)
            return _reply(request, HTTPStatus.OK, fields)
        except asyncio.CancelledError as error:
            raise HTTPException(503, "The reward server has stopped.") from error

    def _rewards(self, body: bytes) -> dict[str, Any]:
        images = read_images(body, max_bytes=self._max_body_bytes)
        return reply_fields(
            reward_batch(self._scorer, images, fallback=self._fallback, max_in_flight=_IN_FLIGHT)
        )

    async def _body(self, request: Request) -> bytes:
        try:
            return await asyncio.wait_for(request.body(), self._body_timeout_s)
        except asyncio.TimeoutError as error:
            raise HTTPException(
                408,
                f"The {request.headers['content-length']} bytes of the request did not arrive "
                f"within {self._body_timeout_s:g} s. Send fewer images at once.",
                {"Connection": "close"},
            ) from error


async def _on_refusal(request: Request, error: HTTPException) -> Response:
    """Answer a request that is not scored, or that has no route (404, 405)."""
    sentence = error.detail
    if error.status_code in (404, 405):
        path = request.url.path
        sentence = f"There is no {request.method} {path}. POST images to / or GET /health."
    reply = _error(request, error.status_code, sentence)
    reply.headers.update(error.headers or {})
    return reply


async def _on_disconnect(request: Request, error: ClientDisconnect) -> Response:
    return Response()  # no one reads it


async def _on_error(request: Request, error: Exception) -> Response:
    """Answer a request whose images have no rewards; uvicorn logs unexpected errors."""
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return _error(request, status, str(error))
    return _error(request, 500, "The reward server failed. See its log for the reason.")


def _error(request: Request, status: int, sentence: str) -> Response:
    logger.warning("%d: %s", status, sentence)
    return _reply(request, status, {"error": sentence})


def _reply(request: Request, status: int, fields: dict[str, Any]) -> Response:
    """Encode a reply like the body of the request, if that has been read."""
    pickled = getattr(request.state, "pickled", False)
    media_type, body = write_reply(fields, pickled=pickled)
    return Response(body, status, media_type=media_type)
