"""Questions to the served language model about an image (paper Fig. 5); answers are streamed.

    encoded bytes, question --> IMAGE [1], QUESTION [1] --> model `mplug_owl2_answer`
                                                        --> TEXT [1], many times

Use it through `Scorer.explain` and `AsyncScorer.explain`. Once text has been yielded, nothing is
sent again, because the text cannot be taken back.
"""

import re
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from ma_agiqa_client._core import protocol
from ma_agiqa_client._core.plan import Core
from ma_agiqa_client.errors import (
    CannotExplainError,
    ClientError,
    DeadlineExceededError,
    InvalidQuestionError,
)
from ma_agiqa_client.retry import Clock

__all__ = ["MAX_ANSWER_TOKENS", "QUESTIONS", "AnswerPart"]

ANSWERING_MODEL = "mplug_owl2_answer"

MAX_ANSWER_TOKENS = 512
"""Maximum length of an answer, in tokens of about three quarters of a word each."""

QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "semantic": "Evaluate the input image to determine if its quality is compromised due to a "
        "lack of meaningful semantic content.",
        "coherence": "Evaluate if the image quality is compromised due to violations of coherence.",
    }
)
"""The two questions whose embeddings the score is computed from (paper §3.2)."""

# The stream carries sentences only: Triton 2.51 can crash if it is asked for statuses on streams
# (header `triton_grpc_error`), so the model writes the status before its sentence.
_STATUS = re.compile(r"(INVALID_ARGUMENT|UNIMPLEMENTED|INTERNAL): ")


@dataclass(frozen=True)
class AnswerPart:
    """A piece of an answer, a few letters or a word.

    Attributes:
        question: `semantic` or `coherence` for the paper's questions, else the question itself.
        text: the piece; the pieces of a question, joined, are its answer.
    """

    question: str
    text: str


@dataclass(frozen=True)
class Inquiry:
    """What is asked about one image.

    Attributes:
        question: free text; None asks the paper's two questions, one after the other.
        max_tokens: maximum length of each answer in tokens.

    Raises:
        InvalidQuestionError: the question is empty, or `max_tokens` is not in 1 to
            `MAX_ANSWER_TOKENS`.
    """

    question: str | None
    max_tokens: int

    def __post_init__(self) -> None:
        if self.question is not None and not self.question.strip():
            raise InvalidQuestionError("The question is empty. Ask something about the image.")
        if not 1 <= self.max_tokens <= MAX_ANSWER_TOKENS:
            raise InvalidQuestionError(
                f"max_tokens is {self.max_tokens}; expected 1 to {MAX_ANSWER_TOKENS}."
            )

    def requests(self, image: bytes) -> Iterator[tuple[str, Any]]:
        """Yield the name of each question, and the protobuf `ModelInferRequest` that asks it."""
        asked = QUESTIONS if self.question is None else {self.question: self.question}
        for name, question in asked.items():
            request = service_pb2.ModelInferRequest(model_name=ANSWERING_MODEL, id=uuid.uuid4().hex)
            protocol.add_bytes(request, "IMAGE", [1], image)
            protocol.add_bytes(request, "QUESTION", [1], question.encode())
            request.parameters["max_tokens"].int64_param = self.max_tokens
            yield name, request


@dataclass(frozen=True)
class Answers:
    """The answers of a server about one image.

    Attributes:
        transport: opens streams of answers.
        url: address of the server.
        core: knows the server's clock.
        clock: the time that is left.
    """

    transport: Any
    url: str
    core: Core
    clock: Clock

    def parts(self, inquiry: Inquiry, image: bytes) -> Generator[AnswerPart, None, None]:
        """Ask; yield the answers as they are written. Closing the iterator stops the server.

        Raises:
            ClientError: as `Scorer.explain` says.
        """
        for name, request in inquiry.requests(image):
            for repeatable in (True, False):
                try:
                    with self.transport.stream(*self._in_time(request)) as answers:
                        for answer in answers:
                            if text := self._text(answer, request):
                                repeatable = False
                                yield AnswerPart(name, text)
                    break
                except (InferenceServerException, DeadlineExceededError) as error:
                    self._raise_unless(repeatable, error, request)

    async def parts_async(self, inquiry: Inquiry, image: bytes) -> AsyncGenerator[AnswerPart, None]:
        """The same in an event loop."""
        for name, request in inquiry.requests(image):
            for repeatable in (True, False):
                try:
                    async with self.transport.stream(*self._in_time(request)) as answers:
                        async for answer in answers:
                            if text := self._text(answer, request):
                                repeatable = False
                                yield AnswerPart(name, text)
                    break
                except (InferenceServerException, DeadlineExceededError) as error:
                    self._raise_unless(repeatable, error, request)

    def _in_time(self, request: Any) -> tuple[Any, float]:
        """Tell the request its deadline; return it and the seconds left."""
        left_s = max(self.clock.left_s(), 0.0)
        deadline_us = self.core.server_deadline_us(left_s)
        request.parameters[protocol.DEADLINE].int64_param = deadline_us
        return request, left_s

    def _text(self, answer: Any, request: Any) -> str:
        if message := answer.error_message:
            found = _STATUS.match(message)
            said = message[found.end() :] if found else message
            raise self._error(found[1] if found else None, said, request)
        contents = answer.infer_response.raw_output_contents
        return contents[0][4:].decode(errors="replace") if contents else ""

    def _raise_unless(self, repeatable: bool, error: Exception, request: Any) -> None:
        """Raise what ended an answer, unless the question can be sent again with a new deadline."""
        if isinstance(error, InferenceServerException):
            raise self._error(error.status(), error.message(), request) from error
        if not repeatable or not self.core.learns_clock(str(error), self.clock):
            raise error

    def _error(self, status: str | None, message: str, request: Any) -> ClientError:
        error = self._named(status, message)
        error.request_id = request.id
        return error

    def _named(self, status: str | None, message: str) -> ClientError:
        code = (status or "").removeprefix("StatusCode.")
        if code == "UNIMPLEMENTED":
            return CannotExplainError(message)
        if ANSWERING_MODEL in message and ("unknown model" in message or "available" in message):
            return CannotExplainError(
                f"The server at {self.url} does not answer questions: its model "
                f"{ANSWERING_MODEL} is not loaded. Start the server with --explain."
            )
        if message.startswith("DEADLINE_EXCEEDED"):
            return DeadlineExceededError(message)
        if code == "INVALID_ARGUMENT" and message.startswith("The question"):
            return InvalidQuestionError(message)
        return protocol.to_client_error(code or None, message, self.url, self.clock.timeout_s)
