"""Errors of the client, all under one root.

    ClientError
    ├── InvalidImageError          this image cannot be scored: unreadable, damaged, wrong array
    ├── ServerUnavailableError     nobody answers at the address, or the server is overloaded
    ├── DeadlineExceededError      no answer within `timeout_s`
    ├── WrongModelError            the server answers, but does not serve MA-AGIQA
    └── ServerError                the server failed in another way

A message says what was received, what was expected, and what to do next. Where the server sent a
sentence, it is in the message.
"""

__all__ = [
    "ClientError",
    "DeadlineExceededError",
    "InvalidImageError",
    "ServerError",
    "ServerUnavailableError",
    "WrongModelError",
]


class ClientError(Exception):
    """Root of every error this package raises on purpose."""


class InvalidImageError(ClientError, ValueError):
    """The image cannot be scored; other images are not affected."""


class ServerUnavailableError(ClientError, ConnectionError):
    """Nobody answers at the address, or the server is overloaded; retries did not help."""


class DeadlineExceededError(ClientError, TimeoutError):
    """No answer within the call's `timeout_s`, retries included."""


class WrongModelError(ClientError):
    """The server answers, but does not serve MA-AGIQA as this client knows it."""


class ServerError(ClientError):
    """The server failed in a way that neither the image nor the address explains."""
