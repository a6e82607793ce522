"""An HTTP server that trainers ask for rewards; it sends the images to a served MA-AGIQA.

One address answers every protocol of `_protocols.py`. It needs the extra `rewards`: FastAPI for the
routes, uvicorn for the connections.

`WebGuard` refuses requests of web pages, and bodies without a length or above the largest.
"""

import asyncio
import logging
import socket
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ma_agiqa_client._programs.web_guard import WebGuard
from ma_agiqa_client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidPromptError,
    RequestCancelledError,
    ServerUnavailableError,
)
from ma_agiqa_client.rewards import _protocols as protocols
from ma_agiqa_client.rewards._batch import (
    MOS,
    Rewards,
    RewardSet,
    WrongInputError,
    check_fallback,
    evaluate,
)
from ma_agiqa_client.rewards._body_memory import BodyMemory
from ma_agiqa_client.rewards._guard import Guard
from ma_agiqa_client.rewards._http import LimitedHeadersProtocol
from ma_agiqa_client.scorer import Scorer

_KEEP_ALIVE_S = 600
_SHUTDOWN_S = 3
_HEALTH_TIMEOUT_S = 5.0
_BACKLOG = 256  # trainers send a whole batch at once, each image by itself
_MAX_PENDING = 64  # enqueued batches that wait for their rewards
_PULL_WAIT_S = 1.0  # spares a trainer some of its waiting between two questions
_MAX_KEPT = 4096  # enqueued batches whose rewards can be fetched

_STATUSES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (protocols.MalformedRequestError, HTTPStatus.BAD_REQUEST),
    (WrongInputError, HTTPStatus.BAD_REQUEST),
    (InvalidImageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (InvalidPromptError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ServerUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (RequestCancelledError, HTTPStatus.SERVICE_UNAVAILABLE),
    (DeadlineExceededError, HTTPStatus.GATEWAY_TIMEOUT),
    (ClientError, HTTPStatus.BAD_GATEWAY),
)

_READERS: dict[str, Callable[[protocols.Body, int], protocols.Call]] = {
    "/": protocols.read_score,
    "/score": protocols.read_score,
    "/compute": protocols.read_compute,
    "/get_reward": protocols.read_query,
}

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class RewardServer:
    """Listens from its creation on, and answers while `run` runs."""

    def __init__(
        self,
        host: str,
        port: int,
        scorer: Scorer,
        *,
        rewards: RewardSet | None = None,
        guard: bool = False,
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
            rewards: what is computed; MOS alone by default.
            guard: whether to watch for rewards that rise while the pictures go wrong. It scores
                some images again: 6 for each 32.
            fallback: reward of an image that cannot be scored; None answers with an error.
            max_body_bytes: maximum size of a request, and of its images together; larger ones are
                refused. All enqueued requests together may have four times as many.
            max_requests: maximum number of requests that are scored at the same time.
            body_timeout_s: seconds until the body of a request must have arrived.

        Raises:
            OSError: the address cannot be listened on.
            ValueError: `fallback` is not finite.
        """
        self._scorer = scorer
        self._rewards = rewards or RewardSet()
        mos = self._probe if MOS in self._rewards.weights else None
        self._guard = Guard(mos) if guard else None
        self._fallback = check_fallback(fallback)
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._memory = BodyMemory()
        self._workers = ThreadPoolExecutor(max_requests, thread_name_prefix="reward")
        self._enqueued: OrderedDict[str, tuple[int, Future[Rewards]]] = OrderedDict()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        guarded = WebGuard(self._app(), host=host, max_body_bytes=max_body_bytes, has_pages=False)
        config = uvicorn.Config(
            guarded,
            http=LimitedHeadersProtocol,
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
        for path, answer in (("/health", self._health), ("/rewards", self._names)):
            for one in (path, f"{path}/"):
                app.api_route(one, methods=["GET", "HEAD"])(answer)
        if self._guard:
            app.get("/metrics")(self._metrics)
            app.get("/guard.png")(self._strip_chart)
        posted = dict.fromkeys(_READERS, self._score)
        posted |= {
            "/api/reward/ping": self._ping,
            "/api/reward/enqueue": self._enqueue,
            "/api/reward/pull": self._pull,
        }
        for path, take in posted.items():
            for one in {path, f"{path.rstrip('/')}/"}:
                app.post(one)(take)
        return app

    async def _health(self, request: Request) -> Response:
        if not await asyncio.to_thread(self._scorer.health, timeout_s=_HEALTH_TIMEOUT_S):
            raise HTTPException(503, "The server that scores is not ready. Check that it runs.")
        rewards = {name: ["ready"] for name in self._rewards.weights}
        return _reply(request, HTTPStatus.OK, {"status": "ready", "rewards": rewards})

    async def _names(self, request: Request) -> Response:
        return _reply(request, HTTPStatus.OK, {"rewards": list(self._rewards.weights)})

    async def _score(self, request: Request) -> Response:
        body = await self._body(request)
        request.state.pickled = protocols.is_pickle(body)
        read = _READERS[request.url.path.rstrip("/") or "/"]
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._workers, self._answer, read, body)
        answer = await _unless_stopped(work)
        self._memory.give_back(body)
        return _reply(request, *answer)

    def _answer(
        self, read: Callable[[protocols.Body, int], protocols.Call], body: protocols.Body
    ) -> tuple[int, dict[str, Any]]:
        call = self._checked(read(body, self._max_body_bytes))
        rewards = self._evaluate(call)
        error = None if call.partial else rewards.error()
        if error is None:
            fields = call.reply(rewards)
            if self._guard and call.reply is protocols.own_fields:
                fields["guard"] = self._guard.state()
            return HTTPStatus.OK, fields
        logger.warning("%d: %s", _status(error), error)
        return _status(error), {"error": str(error), **protocols.part_fields(rewards)}

    def _checked(self, call: protocols.Call) -> protocols.Call:
        """Refuse names of rewards that are not served."""
        for name in call.names or ():
            if name not in self._rewards.weights:
                known = ", ".join(self._rewards.weights)
                raise protocols.MalformedRequestError(f"Got reward {name!r}; expected {known}.")
        return call

    def _evaluate(self, call: protocols.Call) -> Rewards:
        rewards = evaluate(
            self._scorer, call.batch, self._rewards, names=call.names, fallback=self._fallback
        )
        if self._guard and set(self._rewards.summed) <= rewards.parts.keys():
            failed = set(rewards.failed)
            scores = [None if i in failed else one for i, one in enumerate(rewards.scores)]
            self._guard.watch(call.batch.pictures, scores)
        return rewards

    def _probe(self, images: Sequence[Any]) -> list[float | None]:
        outcomes = self._scorer.score_many(images)
        return [None if one.error else one.normalized for one in outcomes]

    async def _metrics(self, request: Request) -> Response:
        return Response(self._guard.metrics() if self._guard else "", media_type="text/plain")

    async def _strip_chart(self, request: Request) -> Response:
        chart = await asyncio.to_thread(self._guard.strip_chart) if self._guard else b""
        return Response(chart, media_type="image/png")

    async def _ping(self, request: Request) -> Response:
        await self._body(request)
        return _reply(request, HTTPStatus.OK, {"message": "The reward server answers."})

    async def _enqueue(self, request: Request) -> Response:
        """Take a batch of cosmos-rl; its rewards are fetched later, by the id in the answer."""
        body = await self._body(request)
        waiting = [size for size, future in self._enqueued.values() if not future.done()]
        if len(waiting) >= _MAX_PENDING or sum(waiting) + len(body) > 4 * self._max_body_bytes:
            raise HTTPException(503, f"{len(waiting)} enqueued requests wait. Send it later again.")
        read = asyncio.to_thread(protocols.read_enqueued, body, self._max_body_bytes)
        calls = [self._checked(await read)]
        loop = asyncio.get_running_loop()

        def work() -> Rewards:
            rewards = self._evaluate(calls.pop())
            loop.call_soon_threadsafe(self._memory.give_back, body)
            return rewards

        key = str(uuid.uuid4())
        self._enqueued[key] = len(body), self._workers.submit(work)
        while len(self._enqueued) > _MAX_KEPT:
            self._enqueued.popitem(last=False)[1][1].cancel()
        return _reply(request, HTTPStatus.OK, {"uuid": key})

    async def _pull(self, request: Request) -> Response:
        """Answer with one reward of an enqueued batch, or 400 until it is known, as cosmos-rl."""
        form = parse_qs(str(await self._body(request), "utf-8", "replace"))
        key = form.get("uuid", [""])[0]
        if key not in self._enqueued:
            raise HTTPException(404, f"There are no rewards for {key!r}. Enqueue the batch again.")
        future = self._enqueued[key][1]
        known = asyncio.wrap_future(future)
        known.add_done_callback(lambda done: done.cancelled() or done.exception())  # not logged
        await asyncio.wait({known}, timeout=_PULL_WAIT_S)
        if not future.done():
            return _reply(request, 400, {"message": f"The rewards of {key} are being computed."})
        rewards = future.result()
        name = form.get("type", list(rewards.parts))[0]
        if name not in rewards.parts:
            raise protocols.MalformedRequestError(
                f"The batch has no reward {name!r}; enqueued were {', '.join(rewards.parts)}."
            )
        return _reply(request, HTTPStatus.OK, protocols.pulled_fields(rewards, name))

    async def _body(self, request: Request) -> memoryview:
        try:
            arrived = asyncio.wait_for(_read_body(request, self._memory), self._body_timeout_s)
            return await _unless_stopped(arrived)
        except asyncio.TimeoutError as error:
            raise HTTPException(
                408,
                f"The {request.headers['content-length']} bytes of the request did not arrive "
                f"within {self._body_timeout_s:g} s. Send fewer images at once.",
                {"Connection": "close"},
            ) from error


async def _read_body(request: Request, memory: BodyMemory) -> memoryview:
    """Read the body of a request, whose length `WebGuard` has checked."""
    body, size = memory.take(int(request.headers["content-length"])), 0
    async for chunk in request.stream():
        body[size : size + len(chunk)] = chunk
        size += len(chunk)
    if size < len(body):  # the rest is of another request
        raise ClientDisconnect
    return body


async def _unless_stopped(work: Awaitable[_T]) -> _T:
    try:
        return await work
    except asyncio.CancelledError as error:
        raise HTTPException(503, "The reward server has stopped.") from error


def _status(error: Exception) -> int:
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


async def _on_refusal(request: Request, error: HTTPException) -> Response:
    """Answer a request that is not scored, or that has no route (404, 405)."""
    sentence = error.detail
    if sentence in ("Not Found", "Method Not Allowed"):
        path = request.url.path
        sentence = f"There is no {request.method} {path}. POST images to / or GET /health."
    reply = _error(request, error.status_code, sentence)
    reply.headers.update(error.headers or {})
    return reply


async def _on_disconnect(request: Request, error: ClientDisconnect) -> Response:
    return Response()  # no one reads it


async def _on_error(request: Request, error: Exception) -> Response:
    """Answer a request whose images have no rewards; uvicorn logs unexpected errors."""
    status = _status(error)
    if status == 500:
        return _error(request, status, "The reward server failed. See its log for the reason.")
    return _error(request, status, str(error))


def _error(request: Request, status: int, sentence: str) -> Response:
    logger.warning("%d: %s", status, sentence)
    return _reply(request, status, {"error": sentence})


def _reply(request: Request, status: int, fields: dict[str, Any]) -> Response:
    """Encode a reply like the body of the request, if that has been read."""
    pickled = getattr(request.state, "pickled", False)
    media_type, body = protocols.write_reply(fields, pickled=pickled)
    return Response(body, status, media_type=media_type)
