"""Errors of the client, all under one root.

    ClientError
    ├── InvalidImageError          the image cannot be scored: unreadable, damaged, wrong array
    ├── ServerUnavailableError     no answer at the address, overload, or a refused certificate
    ├── DeadlineExceededError      no answer within `timeout_s`
    ├── AuthenticationError        the server expects a token that it did not get
    ├── WrongModelError            the server answers, but does not serve MA-AGIQA
    ├── InvalidQuestionError       the question about an image is empty or too long
    ├── CannotExplainError         the server scores images, but does not answer questions
    ├── InvalidPromptError         the prompt of an image is empty or too long
    ├── CannotAlignError           the server scores images, but compares none with a prompt
    ├── RequestCancelledError      the scorer or the iterator was closed during the call
    └── ServerError                the server failed in another way

A message says what was received, what was expected, and what to do next. If the server sent a
sentence, the message contains it. `request_id` finds the request in the server's log.
"""

from typing import Literal

__all__ = [
    "AuthenticationError",
    "CannotAlignError",
    "CannotExplainError",
    "ClientError",
    "DeadlineExceededError",
    "InvalidImageError",
    "InvalidPromptError",
    "InvalidQuestionError",
    "RequestCancelledError",
    "ServerError",
    "ServerUnavailableError",
    "WrongModelError",
]


class ClientError(Exception):
    """Root of every error that this package raises on purpose.

    Attributes:
        request_id: the id sent with the request that failed; empty if no request was sent.
    """

    request_id: str = ""

    def __bool__(self) -> Literal[True]:
        """Always true, so that a type checker knows what `if score.error:` decides."""
        return True


class InvalidImageError(ClientError):
    """The image cannot be scored. Other images are not affected.

    Attributes:
        wrong_array: whether it was an array or Pillow image of another dtype, shape or range: a
            mistake of the program that made it, rather than a fault of one image.
    """

    wrong_array: bool = False


class ServerUnavailableError(ClientError):
    """No server answers at the address, or it is overloaded, and retries did not help.

    Also raised when one side does not accept the other's certificate: gRPC then has no connection,
    and gives no other reason.
    """


class DeadlineExceededError(ClientError):
    """There was no answer within the call's `timeout_s`, retries included."""


class AuthenticationError(ClientError):
    """The server refused the token, expects one, or keeps the service closed."""


class WrongModelError(ClientError):
    """The server answers, but does not serve MA-AGIQA as this client knows it."""


class InvalidQuestionError(ClientError):
    """The question about an image is empty or too long, or asks for too long an answer."""


class CannotExplainError(ClientError):
    """The server does not answer questions: it is not set up to, or its language model cannot."""


class InvalidPromptError(ClientError):
    """The prompt of an image is empty, too long, or no text. Other images are not affected."""


class CannotAlignError(ClientError):
    """The server compares no image with a prompt: an earlier export, or a model without words."""


class RequestCancelledError(ClientError):
    """The call was cancelled because its scorer or its iterator was closed."""


class ServerError(ClientError):
    """The server failed in a way that neither the image nor the address explains."""
