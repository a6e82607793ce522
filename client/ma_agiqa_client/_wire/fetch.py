"""Download of images, for scorers with `fetch_urls`."""

import time
import urllib.request
from http.client import HTTPException
from typing import Any

from ma_agiqa_client.errors import InvalidImageError

MAX_FETCHED_BYTES = 64 * 2**20
"""Maximum size of a download in bytes: the server does not accept more."""

_CHUNK_BYTES = 2**16


def fetch(address: str, timeout_s: float) -> bytes:
    """Download an image.

    Args:
        address: http:// or https://; redirections are followed to such addresses only.
        timeout_s: seconds until the last byte; a server that stops sending is waited for that long
            once more.

    Raises:
        InvalidImageError: the image cannot be downloaded in time, or is larger than
            `MAX_FETCHED_BYTES`.
    """
    ends = time.monotonic() + timeout_s
    request = urllib.request.Request(address, headers={"User-Agent": "ma-agiqa-client"})
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            data = _read(answer, ends, timeout_s)
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InvalidImageError(
            f"The image at {address} cannot be fetched: {reason}. "
            "Check the address, or allow more time."
        ) from error
    if len(data) > MAX_FETCHED_BYTES:
        raise InvalidImageError(
            f"The image at {address} has more than {MAX_FETCHED_BYTES:,} bytes, which the server "
            "does not accept. Scale it down."
        )
    return data


def _read(answer: Any, ends: float, timeout_s: float) -> bytes:
    """Read until the end, the monotonic time `ends`, or just above the maximum size."""
    data = bytearray()
    while len(data) <= MAX_FETCHED_BYTES:
        chunk = answer.read1(_CHUNK_BYTES)
        if time.monotonic() > ends:
            raise TimeoutError(f"it is not complete after {timeout_s:.3g} s")
        if not chunk:
            break
        data += chunk
    return bytes(data)


_OPENER = urllib.request.OpenerDirector()
"""Opens HTTP and HTTPS only: neither files nor FTP, even after a redirection."""

for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPRedirectHandler,
):
    _OPENER.add_handler(_handler())
