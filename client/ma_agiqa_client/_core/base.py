"""What `Scorer` and `AsyncScorer` have in common: their settings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from ma_agiqa_client._core.plan import Core
from ma_agiqa_client._wire.images import Encoder
from ma_agiqa_client._wire.shared_memory import Region, SharedMemory
from ma_agiqa_client.connection import (
    Compression,
    Connection,
    Tls,
    check_urls,
    is_loopback,
)
from ma_agiqa_client.errors import CannotExplainError
from ma_agiqa_client.explain import Inquiry
from ma_agiqa_client.retry import Clock, Retry

__all__ = ["BaseScorer", "check_window"]

_TransportT = TypeVar("_TransportT")


class BaseScorer(Generic[_TransportT]):
    """The settings of a scorer. Opens nothing but the shared memory, if that is asked for."""

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
        shared_memory: SharedMemory | bool = False,
        fetch_urls: bool = False,
        max_side: int | None = None,
        version: int | None = None,
        transport: _TransportT | None = None,
    ) -> None:
        """Prepare the connection; nothing is sent until the first call.

        Args:
            url: HOST:PORT of the server's gRPC port; `dns:///HOST:PORT` to spread the calls over
                every address the name has; or several addresses, whose servers get the calls by
                how busy they are, and stand in for one another.
            timeout_s: seconds a call may take, retries included, unless it says otherwise. The
                server is told, and drops what nobody waits for any more.
            retry: how long a server that is not available is waited for; `Retry()` by default.
            tls: encrypt the connection; `Tls()` trusts the usual issuers.
            token: sent as `authorization: Bearer TOKEN`; a function is asked at every call. Without
                `tls` anyone on the way can read it.
            metadata: further headers of every call.
            compression: `gzip` or `deflate` of what is sent. Helps raw pixels on slow networks;
                image files are compressed already.
            keepalive_s: seconds without traffic after which the connection is tested, or None.
                Triton closes connections that are tested more often than every 300 s.
            shared_memory: hand images to a server on this host through memory; `True` takes
                `SharedMemory()`. The server has to allow it.
            fetch_urls: fetch images that are given as http:// or https:// addresses. Only for
                addresses you trust: the fetching machine may reach what their author cannot.
            max_side: scale images down to this many pixels a side before they are sent. This
                changes the score: the server sees another image, and detail is part of quality.
            version: number of the model's version to score with, of those that the server keeps
                beside the active one, such as for A/B tests; the active one by default.
            transport: how to reach the server instead of gRPC to `url`, for tests and the like: a
                `Transport`, or an `AsyncTransport` for an `AsyncScorer`. It carries scores, not
                explanations.

        Raises:
            ValueError: an argument is out of its range, or a certificate cannot be read.
            OSError: there is no room for the shared memory.
        """
        self._urls = check_urls(url)
        self._timeout_s = Clock(timeout_s).timeout_s
        self._encoder = Encoder(fetch_urls, max_side)
        self._connection = Connection(tls, token, metadata, compression, keepalive_s, version)
        self._can_explain = transport is None
        self._transports = (
            [self._connect(one, self._connection) for one in self._urls]
            if transport is None
            else [transport]
        )
        region = _region(shared_memory, self._urls)
        self._core = Core(self._urls[: len(self._transports)], retry or Retry(), region, version)
        self._closed = False
        self._prepare()

    def _prepare(self) -> None:
        """Make what only one kind of scorer needs."""

    def _clock(self, timeout_s: float | None) -> Clock:
        """Start the clock of a call."""
        if self._closed:
            raise RuntimeError(f"This {type(self).__name__} is closed. Make another one.")
        return Clock(self._timeout_s if timeout_s is None else timeout_s)

    def _inquiry(self, question: str | None, max_tokens: int) -> Inquiry:
        """Check what is asked about an image, and that there is a way to ask it."""
        if not self._can_explain:
            raise CannotExplainError(
                f"This {type(self).__name__} was given a transport, which carries scores only. "
                "Make one without `transport` to have images explained."
            )
        return Inquiry(question, max_tokens)


def _region(shared_memory: SharedMemory | bool, urls: Sequence[str]) -> Region | None:
    if not shared_memory:
        return None
    if len(urls) > 1 or not is_loopback(urls[0]):
        raise ValueError(
            f"Got shared_memory for {', '.join(urls)}; expected one server on this host, "
            "such as localhost:8001."
        )
    return Region(SharedMemory() if shared_memory is True else shared_memory)


def check_window(max_in_flight: int) -> int:
    """Check the bound of `score_many`.

    Raises:
        ValueError: it is below 1.
    """
    if max_in_flight < 1:
        raise ValueError(f"max_in_flight is {max_in_flight}; expected at least 1.")
    return max_in_flight
