"""What the web page and the reward server refuse before they look at a request.

A web page of another site, open in a browser on this machine, must not use them. Browsers add an
`Origin` header to its posts and its web sockets. A page whose own name was resolved to 127.0.0.1
names itself in the `Host` header. A body must have a length, and a length that is allowed.
"""

import json
import re
from collections.abc import Callable, MutableMapping
from typing import Any

from ma_agiqa_client._programs.server_options import LOOPBACK_HOSTS

_App = Callable[[Any, Any, Any], Any]


class WebGuard:
    """An ASGI application in front of another one."""

    def __init__(self, app: _App, *, host: str, max_body_bytes: int, has_pages: bool) -> None:
        """Guard an application.

        Args:
            app: gets what is not refused.
            host: address that is listened on; on loopback, other names than those of this machine
                are refused.
            max_body_bytes: maximum size of a request's body.
            has_pages: whether requests may come from web pages: from the application's own.
        """
        self._app = app
        self._names = LOOPBACK_HOSTS if host in LOOPBACK_HOSTS else None
        self._max_body_bytes = max_body_bytes
        self._has_pages = has_pages

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it with a status and a sentence in `error`."""
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})
        else:
            body = json.dumps({"error": refusal[1]}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ]
            await send({"type": "http.response.start", "status": refusal[0], "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _host_name(host)
        if self._names and name not in self._names:
            return 403, (
                f"The Host header names {name!r}; expected {', '.join(self._names)}. "
                "Use one of these in the URL, or listen on another --host."
            )
        if origin is not None and not self._has_pages:
            return 403, "Requests from web pages, with an Origin header, are refused."
        if origin is not None and origin.rpartition("//")[2].lower() != host.lower():
            return 403, f"Requests from pages of {origin} are refused; expected those of {host}."
        if scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        length = headers.get("content-length")
        if "transfer-encoding" in headers:
            return 411, (
                f"The body is sent as {headers['transfer-encoding']!r}; expected a Content-Length "
                "header with the number of bytes, and no Transfer-Encoding."
            )
        if length is None:
            return 411, "The request has no Content-Length header; expected the number of bytes."
        size = int(length[:20]) if length.isascii() and length.isdigit() else None
        if size is None:
            return 400, "The header Content-Length is malformed; expected the number of bytes."
        if size > self._max_body_bytes:
            return 413, (
                f"The request has {size:,} bytes; expected at most {self._max_body_bytes:,}. "
                "Send fewer or smaller images at once."
            )
        return None


def _host_name(header: str) -> str:
    """Return the name in a Host header without the port, or the header if it is malformed."""
    found = re.fullmatch(r"\[([^]]*)\](:\d*)?|([^:]*)(:\d*)?", header)
    return (found[1] or found[3] or "").lower() if found else header
