"""Questions to the served language model about an image (paper Fig. 5); answers are streamed.

    encoded bytes, question --> IMAGE [1], QUESTION [1] --> model `mplug_owl2_answer`
                                                        --> TEXT [1], many times

Use it through `Scorer.explain` and `AsyncScorer.explain`. Once text has been yielded, nothing is
sent again, because the text cannot be taken back.
"""

import asyncio
import re
import struct
import threading
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ma_agiqa_client._core import protocol
from ma_agiqa_client._core.cancellation import cancelled
from ma_agiqa_client._core.plan import Core
from ma_agiqa_client.connection import Connection, check_url
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

_GRPC_COMPRESSION = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
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
            for tensor, value in (("IMAGE", image), ("QUESTION", question.encode())):
                request.inputs.add(name=tensor, datatype="BYTES", shape=[1])
                request.raw_input_contents.append(struct.pack("<I", len(value)) + value)
            request.parameters["max_tokens"].int64_param = self.max_tokens
            yield name, request


class _Channel:
    """What both kinds of channel have in common."""

    def __init__(self, url: str, connection: Connection, core: Core) -> None:
        """Prepare; the channel is made at the first question.

        Args:
            url: address of the server.
            connection: the same settings as for scores.
            core: knows the servers' clocks.

        Raises:
            ValueError: `url` is not an address for gRPC.
        """
        self._url = check_url(url)
        self._connection = connection
        self._core = core
        self._made: Any = None
        self._closed = False
        self._lock = threading.Lock()

    def _channel(self, grpc_module: Any) -> Any:
        tls, options = self._connection.tls, self._connection.channel_args(self._url)
        with self._lock:
            if self._closed:
                raise cancelled()
            if self._made is None and tls:
                made = grpc_module.secure_channel(self._url, tls.credentials(), options=options)
                self._made = made
            elif self._made is None:
                self._made = grpc_module.insecure_channel(self._url, options=options)
            return self._made

    def _end(self) -> Any:
        """Forbid new channels; return the existing one, or None."""
        with self._lock:
            self._closed = True
            return self._made

    def _call(self, grpc_module: Any, request: Any, clock: Clock) -> Any:
        """Start the stream of one answer."""
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel(grpc_module))
        compression, left_s = self._connection.compression, max(clock.left_s(), 0.0)
        deadline_us = self._core.server_deadline_us(left_s)
        request.parameters[protocol.DEADLINE].int64_param = deadline_us
        return stub.ModelStreamInfer(
            iter([request]),
            timeout=left_s,
            metadata=tuple(self._connection.headers().items()),
            compression=_GRPC_COMPRESSION[compression] if compression else None,
        )

    def _text(self, response: Any, request: Any, clock: Clock) -> str:
        if message := response.error_message:
            found = _STATUS.match(message)
            code = grpc.StatusCode[found[1]] if found else None
            raise self._error(code, message[found.end() :] if found else message, request, clock)
        contents: Sequence[bytes] = response.infer_response.raw_output_contents
        return contents[0][4:].decode() if contents else ""

    def _raise_unless(self, repeatable: bool, error: Any, request: Any, clock: Clock) -> None:
        """Raise what ended an answer, unless the question can be sent again with a new deadline."""
        if isinstance(error, grpc.RpcError):
            raise self._error(error.code(), error.details() or "", request, clock) from error
        if not repeatable or not self._core.learns_clock(str(error), clock):
            raise error

    def _error(self, code: Any, message: str, request: Any, clock: Clock) -> ClientError:
        error = self._named(code, message, clock)
        error.request_id = request.id
        return error

    def _named(self, code: Any, message: str, clock: Clock) -> ClientError:
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return CannotExplainError(message)
        if ANSWERING_MODEL in message and ("unknown model" in message or "available" in message):
            return CannotExplainError(
                f"The server at {self._url} does not answer questions: its model "
                f"{ANSWERING_MODEL} is not loaded. Start the server with --explain."
            )
        if message.startswith("DEADLINE_EXCEEDED"):
            return DeadlineExceededError(message)
        if code is grpc.StatusCode.INVALID_ARGUMENT and message.startswith("The question"):
            return InvalidQuestionError(message)
        status = f"StatusCode.{code.name}" if code else None
        return protocol.to_client_error(status, message, self._url, clock.timeout_s)


class AnswerChannel(_Channel):
    """A channel for streams of answers, kept open. Thread-safe."""

    def parts(
        self, inquiry: Inquiry, image: bytes, clock: Clock
    ) -> Generator[AnswerPart, None, None]:
        """Ask; yield the answers as they are written.

        Closing the iterator, or the channel, stops the server.

        Raises:
            ClientError: as `Scorer.explain` says.
        """
        for name, request in inquiry.requests(image):
            answered, repeatable = False, True
            while not answered:
                try:
                    call = self._call(grpc, request, clock)
                except ValueError as error:  # the channel was closed
                    raise cancelled() from error
                try:
                    for response in call:
                        if text := self._text(response, request, clock):
                            repeatable = False
                            yield AnswerPart(name, text)
                    answered = True
                except (grpc.RpcError, DeadlineExceededError) as error:
                    self._raise_unless(repeatable, error, request, clock)
                    repeatable = False
                finally:
                    call.cancel()

    def close(self) -> None:
        """Close the channel; answers in flight end with `RequestCancelledError`."""
        if made := self._end():
            made.close()


class AsyncAnswerChannel(_Channel):
    """The same for asyncio. It belongs to the event loop of its first question."""

    async def parts(
        self, inquiry: Inquiry, image: bytes, clock: Clock
    ) -> AsyncGenerator[AnswerPart, None]:
        """Ask; yield the answers as they are written; as `AnswerChannel.parts`."""
        for name, request in inquiry.requests(image):
            answered, repeatable = False, True
            while not answered:
                call = self._call(grpc.aio, request, clock)
                try:
                    async for response in call:
                        if text := self._text(response, request, clock):
                            repeatable = False
                            yield AnswerPart(name, text)
                    answered = True
                except asyncio.CancelledError:
                    if self._closed:
                        raise cancelled() from None
                    raise
                except (grpc.RpcError, DeadlineExceededError) as error:
                    self._raise_unless(repeatable, error, request, clock)
                    repeatable = False
                finally:
                    call.cancel()

    async def close(self) -> None:
        """Close the channel; answers in flight end with `RequestCancelledError`."""
        if made := self._end():
            await made.close()
