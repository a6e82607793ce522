"""Download of images, for scorers with `fetch_urls`."""

import socket
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from typing import Any

from ma_agiqa_client.errors import InvalidImageError


def fetch(address: str, timeout_s: float, limit: int) -> bytes:
    """Download an image.

    Args:
        address: http:// or https://; redirections are followed to such addresses only.
        timeout_s: seconds until the last byte, whatever the server sends until then.
        limit: maximum number of bytes to keep.

    Returns:
        The bytes, at most one more than `limit`.

    Raises:
        InvalidImageError: the image cannot be downloaded in time.
    """
    download = _Download(address, timeout_s, limit)
    download.start()
    download.join(min(timeout_s, threading.TIMEOUT_MAX))
    if download.is_alive():
        download.stop()
        download.reason = f"it is not complete after {round(timeout_s, 2):g} s"
    if download.reason is not None:
        raise InvalidImageError(
            f"The image at {address} cannot be fetched: {download.reason}. "
            "Check the address, or allow more time."
        )
    return download.data


class _Download(threading.Thread):
    """A download on a thread of its own: nothing else ends a wait for a name or a slow header."""

    def __init__(self, address: str, timeout_s: float, limit: int) -> None:
        super().__init__(name="ma-agiqa-fetch", daemon=True)
        self._address = address
        self._timeout_s = timeout_s
        self._limit = limit
        self._connections: list[socket.socket] = []
        self._stopped = False
        self.data = b""
        self.reason: str | None = None

    def run(self) -> None:
        """Fill `data`, or `reason`."""
        try:
            request = urllib.request.Request(self._address, headers={"User-Agent": "ma-agiqa"})
            with _opener(self._connect).open(request, timeout=self._timeout_s) as answer:
                self.data = answer.read(self._limit + 1)
                if answer.length and len(self.data) <= self._limit:
                    raise OSError(f"the last {answer.length:,} bytes are missing")
        except Exception as error:  # of the address, the network, HTTP
            self.reason = str(getattr(error, "reason", None) or error or type(error).__name__)
        finally:
            for connection in self._connections:
                connection.close()

    def stop(self) -> None:
        """Shut the connections down, which ends the thread soon."""
        self._stopped = True
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _connect(self, *arguments: Any, **options: Any) -> socket.socket:
        connection = socket.create_connection(*arguments, **options)
        self._connections.append(connection.dup())  # TLS takes the original away
        if self._stopped:
            raise TimeoutError
        return connection


class _Handler(urllib.request.AbstractHTTPHandler):
    """Opens HTTP and HTTPS, over connections that `connect` makes."""

    def __init__(self, connect: Callable[..., socket.socket]) -> None:
        super().__init__()
        self._connect = connect

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(self._connection, HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(self._connection, HTTPSConnection), request)

    def http_request(self, request: urllib.request.Request) -> Any:
        return self.do_request_(request)

    https_request = http_request

    def _connection(self, kind: Any, host: str, **options: Any) -> Any:
        connection = kind(host, **options)
        connection._create_connection = self._connect  # http.client calls this
        return connection


def _opener(connect: Callable[..., socket.socket]) -> urllib.request.OpenerDirector:
    """Make an opener of HTTP and HTTPS only: of neither files nor FTP, even after a redirection."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Handler(connect),
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPRedirectHandler(),
    ):
        opener.add_handler(handler)
    return opener
