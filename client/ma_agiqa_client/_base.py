"""What `Scorer` and `AsyncScorer` have in common: their settings."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, get_args

from ma_agiqa_client._core.plan import Core
from ma_agiqa_client._wire.images import Encoder, check_sources
from ma_agiqa_client.connection import (
    Compression,
    Connection,
    Tls,
    TrafficClass,
    check_urls,
)
from ma_agiqa_client.errors import CannotExplainError
from ma_agiqa_client.explain import Answers, Inquiry
from ma_agiqa_client.retry import Clock, Retry

_TransportT = TypeVar("_TransportT")

_inherited: list[Any] = []
"""What a forked process got from its parent: it must not be used there, nor be deleted."""

_fork_lock = threading.Lock()


def _renew_lock() -> None:
    global _fork_lock
    _fork_lock = threading.Lock()  # another thread of the parent may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class BaseScorer(Generic[_TransportT]):
    """The settings of a scorer. Opens no connection.

    A scorer can be pickled, and used after a fork: the other process makes its own connection.
    """

    _connect: Callable[[str, Connection], _TransportT]

    def __init__(
        self,
        url: str | Sequence[str] = "localhost:8001",
        *,
        timeout_s: float = 60.0,
        retry: Retry | None = None,
        tls: Tls | None = None,
        token: str | Callable[[], str] | None = None,
        metadata: Mapping[str, str] | None = None,
        compression: Compression | None = None,
        keepalive_s: float | None = 330.0,
        fetch_urls: bool = False,
        max_side: int | None = None,
        version: int | None = None,
        traffic_class: TrafficClass = "interactive",
        transport: _TransportT | None = None,
    ) -> None:
        """Prepare the connection; nothing is sent until the first call.

        Args:
            url: HOST:PORT of the server's gRPC port; or `dns:///HOST:PORT` to spread the calls over
                every address of the name; or several addresses: each call goes to the least busy
                server, and if a server is not available, to another one.
            timeout_s: seconds that a call may take, retries included, unless the call sets its own
                timeout. The server gets this deadline, and drops requests that are late.
            retry: how long to wait for a server that is not available; `Retry()` by default.
            tls: encrypt the connection; `Tls()` trusts the usual issuers.
            token: sent as `authorization: Bearer TOKEN`; a function is called for every request.
                Without `tls` anyone on the network path can read it.
            metadata: additional headers of every call.
            compression: `gzip` or `deflate`, applied to what is sent. Helps with raw pixels on slow
                networks; image files are compressed already.
            keepalive_s: seconds without traffic after which the connection is tested, or None.
                Triton closes connections that are tested more often than every 300 s.
            fetch_urls: fetch images that are given as http:// or https:// addresses. Use it only
                for addresses you trust: this machine may reach servers that their author cannot.
            max_side: scale images down to at most this many pixels per side before sending. This
                changes the score: the server sees another image, and detail is part of quality.
            version: number of the model version to score with, among those that the server keeps
                next to the active one, for example for A/B tests; the active one by default.
            traffic_class: `bulk` for work that can wait: a busy server gives it a third of the
                room, so it is refused, and sent again, long before people wait. Give it a long
                `timeout_s` and `Retry.budget_s`.
            transport: used instead of gRPC to `url`, for example in tests: a `Transport`, or an
                `AsyncTransport` for an `AsyncScorer`. It carries scores, but no explanations.

        Raises:
            ValueError: an argument is out of its range, or a certificate cannot be read.
        """
        arguments = {name: value for name, value in locals().items() if name != "self"}
        if traffic_class not in get_args(TrafficClass):
            raise ValueError(f"traffic_class is {traffic_class!r}; expected interactive or bulk.")
        self._arguments: dict[str, Any] = arguments
        self._urls = check_urls(url)
        self._timeout_s = Clock(timeout_s).timeout_s
        self._encoder = Encoder(fetch_urls, max_side)
        self._can_explain = transport is None
        connection = Connection(tls, token, metadata, compression, keepalive_s, version)
        self._transports = (
            [self._connect(one, connection) for one in self._urls]
            if transport is None
            else [transport]
        )
        self._core = Core(
            self._urls[: len(self._transports)],
            retry or Retry(),
            version,
            traffic_class,
        )
        self._closed = False
        self._process = os.getpid()
        self._prepare()

    def _prepare(self) -> None:
        """Make what only one kind of scorer needs."""

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        BaseScorer.__init__(self, **arguments)

    def _is_inherited(self) -> bool:
        """Return whether the connections belong to the process that was forked."""
        return self._process != os.getpid()

    def _clock(self, timeout_s: float | None) -> Clock:
        """Start the clock of a call."""
        if self._closed:
            raise RuntimeError(f"This {type(self).__name__} is closed. Make another one.")
        if self._is_inherited():
            with _fork_lock:
                if self._is_inherited():
                    _inherited.append(vars(self).copy())
                    BaseScorer.__init__(self, **self._arguments)
        return Clock(self._timeout_s if timeout_s is None else timeout_s)

    def _several(self, sources: Any, max_in_flight: int, timeout_s: float | None) -> Any:
        """Check the arguments of `score_many` at its call; return what to iterate over.

        Raises:
            ValueError: `max_in_flight` is below 1, or `timeout_s` is not positive.
            TypeError: `sources` is one image.
        """
        self._clock(timeout_s)
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}; expected at least 1.")
        return check_sources(sources)

    def _answers(self, clock: Clock) -> Answers:
        return Answers(self._transports[0], self._urls[0], self._core, clock)

    def _inquiry(self, question: str | None, max_tokens: int) -> Inquiry:
        """Check what is asked about an image, and that this scorer can ask it."""
        if not self._can_explain:
            raise CannotExplainError(
                f"This {type(self).__name__} was given a transport, which carries scores only. "
                "Make one without `transport` to get explanations."
            )
        return Inquiry(question, max_tokens)
