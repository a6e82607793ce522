"""Images from the web, for scorers that were told to fetch them."""

import urllib.request

from ma_agiqa_client.errors import InvalidImageError

__all__ = ["MAX_FETCHED_BYTES", "fetch"]

MAX_FETCHED_BYTES = 64 * 2**20
"""Largest download, in bytes: the server accepts no more."""


def fetch(address: str, timeout_s: float) -> bytes:
    """Download an image.

    Args:
        address: http:// or https://; redirections are followed to such addresses only.
        timeout_s: seconds without any byte before it is given up.

    Raises:
        InvalidImageError: it cannot be had, or is larger than `MAX_FETCHED_BYTES`.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "ma-agiqa-client"})
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            data: bytes = answer.read(MAX_FETCHED_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InvalidImageError(
            f"The image at {address} cannot be fetched: {reason}. Check the address."
        ) from error
    if len(data) > MAX_FETCHED_BYTES:
        raise InvalidImageError(
            f"The image at {address} has more than {MAX_FETCHED_BYTES:,} bytes, which the server "
            "does not accept. Scale it down."
        )
    return data


_OPENER = urllib.request.OpenerDirector()
"""Knows the web only: no files, no FTP, wherever a redirection may lead."""

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
