"""Errors of the client, all under one root.

    ClientError
    ├── InvalidImageError          this image cannot be scored: unreadable, damaged, wrong array
    ├── ServerUnavailableError     nobody answers, overload, or a certificate is not accepted
    ├── DeadlineExceededError      no answer within `timeout_s`
    ├── AuthenticationError        the server wants a token it did not get
    ├── WrongModelError            the server answers, but does not serve MA-AGIQA
    ├── InvalidQuestionError       the question about an image is empty or too long
    ├── CannotExplainError         the server scores images, but has no words for them
    ├── RequestCancelledError      the call was given up: its scorer or iterator was closed
    └── ServerError                the server failed in another way

A message says what was received, what was expected, and what to do next. Where the server sent a
sentence, it is in the message. `request_id` finds the request in the server's log.
"""

__all__ = [
    "AuthenticationError",
    "CannotExplainError",
    "ClientError",
    "DeadlineExceededError",
    "InvalidImageError",
    "InvalidQuestionError",
    "RequestCancelledError",
    "ServerError",
    "ServerUnavailableError",
    "WrongModelError",
]


class ClientError(Exception):
    """Root of every error this package raises on purpose.

    Attributes:
        request_id: the id sent with the request that failed; empty if none was.
    """

    request_id: str = ""


class InvalidImageError(ClientError, ValueError):
    """The image cannot be scored; other images are not affected."""


class ServerUnavailableError(ClientError, ConnectionError):
    """Nobody answers at the address, or the server is overloaded; retries did not help.

    Also when one side does not accept the other's certificate: gRPC has no connection then, and
    says no more.
    """


class DeadlineExceededError(ClientError, TimeoutError):
    """No answer within the call's `timeout_s`, retries included."""


class AuthenticationError(ClientError, PermissionError):
    """The server refused the token, or wants one, or keeps the service closed."""


class WrongModelError(ClientError):
    """The server answers, but does not serve MA-AGIQA as this client knows it."""


class InvalidQuestionError(ClientError, ValueError):
    """The question about an image is empty or too long, or asks for too long an answer."""


class CannotExplainError(ClientError):
    """The server does not answer questions: it is not set up to, or its language model cannot."""


class RequestCancelledError(ClientError):
    """The call was given up: its scorer or its iterator was closed meanwhile."""


class ServerError(ClientError):
    """The server failed in a way that neither the image nor the address explains."""
