"""Requests, answers and errors of the inference protocol. Does no input or output.

`plan.py` decides when a request is sent.

    encoded bytes --> IMAGE [1, 1] --> ensemble `ma_agiqa` --> SCORE [1, 1], GATE [1, 3],
                                                               PATCH_SCORE, PATCH_WEIGHT [1, h, w]
                                                               and, if the model is calibrated,
                                                               INTERVAL [1, 2], FAMILIARITY [1, 1]
    prompt, if any --> PROMPT_TEXT [1, 1]                  --> ALIGNMENT [1, 1]

A request also has a deadline for its answer: the parameter `deadline_unix_us`, in
microseconds of Unix time on the server's clock. Steps that would begin later refuse it. If it can
wait, it has the parameter `traffic_class`, "bulk": a busy server refuses it first.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.connection import TrafficClass, proxy_advice
from ma_agiqa_client.errors import (
    AuthenticationError,
    CannotAlignError,
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidPromptError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.score import Gate, Interval, Score

MODEL_NAME = "ma_agiqa"
IMAGE = "IMAGE"
SCORE = "SCORE"
GATE = "GATE"
PATCH_SCORE = "PATCH_SCORE"
PATCH_WEIGHT = "PATCH_WEIGHT"
INTERVAL = "INTERVAL"
FAMILIARITY = "FAMILIARITY"
PROMPT_TEXT = "PROMPT_TEXT"
ALIGNMENT = "ALIGNMENT"
GATE_ORDER = ("semantic", "coherence", "quality")
"""Order of the weights in GATE; the fields of `Gate`."""

DEADLINE = "deadline_unix_us"
"""Name of the request parameter with the deadline of the answer."""

TRAFFIC_CLASS = "traffic_class"
"""Name of the request parameter that says whether a request can wait."""

_WRAPPING = re.compile(r"in ensemble '[^']*', |\[request id: [^]]*\] ")
_DEAD_STUB = re.compile(r"Stub process '[^']*' is not healthy")
_EXPIRED = re.compile(r"DEADLINE_EXCEEDED.*server clock (\d{1,19}) us")
_SERVE_AN_EXPORT = "Serve an ensemble written by export/to_triton.py."
_ASK_FOR_A_KEPT_ONE = (
    "Ask for a version that is kept (`python export/to_triton.py list` lists them), "
    "or check the address."
)


@dataclass(frozen=True)
class InferRequest:
    """A request for one image.

    Attributes:
        image: bytes of the image file.
        maps: whether the patch maps are asked for.
        request_id: appears in the server's log and traces; any text.
        deadline_unix_us: until when the answer is wanted, on the server's clock.
        traffic_class: "bulk" if the request can wait.
        calibrated: whether interval and familiarity are asked for.
        prompt: the text that the image is compared with, in UTF-8; None for the score alone.
    """

    image: bytes
    maps: bool
    request_id: str
    deadline_unix_us: int
    traffic_class: TrafficClass = "interactive"
    calibrated: bool = False
    prompt: bytes | None = None

    def message(self, model: str) -> Any:
        """Return the protobuf `ModelInferRequest` to a model."""
        message = service_pb2.ModelInferRequest(model_name=model, id=self.request_id)
        add_bytes(message, IMAGE, [1, 1], self.image)
        maps = (PATCH_SCORE, PATCH_WEIGHT) if self.maps else ()
        calibrated = (INTERVAL, FAMILIARITY) if self.calibrated else ()
        aligned = () if self.prompt is None else (ALIGNMENT,)
        if self.prompt is not None:
            add_bytes(message, PROMPT_TEXT, [1, 1], self.prompt)
        for name in (SCORE, GATE, *maps, *calibrated, *aligned):
            message.outputs.add(name=name)
        message.parameters[DEADLINE].int64_param = self.deadline_unix_us
        if self.traffic_class == "bulk":
            message.parameters[TRAFFIC_CLASS].string_param = "bulk"
        return message


class Result(Protocol):
    """The answer to an inference request, as tritonclient returns it."""

    def as_numpy(self, name: str) -> npt.NDArray[Any] | None:
        """Return the named output, or None if the answer has no output of that name."""


def model_name(version: int | None) -> str:
    """Return the name of the ensemble: the active version, or a kept one."""
    return MODEL_NAME if version is None else f"{MODEL_NAME}_v{version}"


def add_bytes(message: Any, name: str, shape: Sequence[int], value: bytes) -> None:
    """Add a tensor of one BYTES element to a protobuf `ModelInferRequest`."""
    message.inputs.add(name=name, datatype="BYTES", shape=shape)
    message.raw_input_contents.append(struct.pack("<I", len(value)) + value)


def read_card(config: Any) -> ModelCard:
    """Read the card from the ensemble's configuration (the protobuf `ModelConfig`).

    Raises:
        WrongModelError: the inputs, outputs or parameters are not those of MA-AGIQA.
    """
    inputs = {tensor.name for tensor in config.input if not tensor.optional}
    outputs = {tensor.name for tensor in config.output}
    if inputs != {IMAGE} or not {SCORE, GATE} <= outputs:
        raise WrongModelError(
            f"The served model `{config.name}` takes {sorted(inputs)} and gives {sorted(outputs)}; "
            f"expected {IMAGE} in and {SCORE}, {GATE} out. Serve the repository's ensemble."
        )
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    if not {INTERVAL, FAMILIARITY} <= outputs:
        parameters.pop("calibration", None)
    if not {PROMPT_TEXT, ALIGNMENT} <= outputs | {tensor.name for tensor in config.input}:
        parameters.pop("alignment", None)
    return ModelCard.from_parameters(parameters)


def read_score(
    result: Result,
    card: ModelCard,
    *,
    source: Any,
    index: int | None,
    latency_ms: float,
    maps: bool,
    request_id: str,
    prompted: bool = False,
) -> Score:
    """Read the answer for one image.

    Raises:
        ServerError: an output is missing, has another shape, or contains NaN or infinity.
    """
    mos = float(_output(result, SCORE, (1, 1))[0, 0])
    weights = _output(result, GATE, (1, len(GATE_ORDER)))[0]
    worth: dict[str, Any] = {}
    if card.calibration is not None:
        low, high = map(float, _output(result, INTERVAL, (1, 2))[0])
        worth = {
            "interval": Interval(*(min(max(x, card.mos_min), card.mos_max) for x in (low, high))),
            "deviation": (high - low) / (2 * card.calibration.reach),
            "familiarity": float(_output(result, FAMILIARITY, (1, 1))[0, 0]),
        }
    return Score(
        source=source,
        mos=mos,
        normalized=card.normalize(mos),
        percentile=card.percentile(mos),
        gate=Gate.from_weights(weights),
        latency_ms=latency_ms,
        model=card.name,
        checkpoint_sha256=card.checkpoint_sha256,
        request_id=request_id,
        index=index,
        alignment=float(_output(result, ALIGNMENT, (1, 1))[0, 0]) if prompted else None,
        patch_score=_output(result, PATCH_SCORE, (1, None, None))[0] if maps else None,
        patch_weight=_output(result, PATCH_WEIGHT, (1, None, None))[0] if maps else None,
        **worth,
    )


def to_client_error(
    status: str | None,
    message: str,
    url: str,
    timeout_s: float,
    version: int | None = None,
    prompted: bool = False,
) -> ClientError:
    """Choose the error of a failed call.

    Args:
        status: the gRPC status as tritonclient gives it, such as `StatusCode.UNAVAILABLE`.
        message: the sentence of the server or of gRPC.
        url: address of the server that was called.
        timeout_s: seconds that the whole call was allowed to take.
        version: the kept version that was asked for; None if it was the active one.
        prompted: whether the image was to be compared with a prompt.
    """
    sentence = _sentence(message)
    if "protocol is restricted" in sentence:  # Triton says UNAVAILABLE, but retrying never helps
        status = "PERMISSION_DENIED"
    if "has no available versions" in sentence:  # Triton says NOT_FOUND while it loads or unloads
        status = "UNAVAILABLE"
    if sentence == "CANCELLED":  # gRPC's own word when a server shuts down
        status, sentence = "UNAVAILABLE", "it shut down while the request was in flight"
    if lacks_output(sentence):  # Triton says INVALID_ARGUMENT, but not because of the image
        return WrongModelError(
            f"The server at {url} has another model than a moment ago: {sentence.rstrip('.')}. "
            "Ask again."
        )
    if _DEAD_STUB.search(sentence):  # Triton says INTERNAL; a supervisor restarts the server
        status = "UNAVAILABLE"
    match (status or "").removeprefix("StatusCode."):
        case "INVALID_ARGUMENT" if prompted and sentence.startswith("The prompt"):
            return InvalidPromptError(sentence)
        case "UNIMPLEMENTED" if prompted:
            return CannotAlignError(sentence)
        case "INVALID_ARGUMENT":
            return InvalidImageError(sentence)
        case "UNAVAILABLE":
            return ServerUnavailableError(
                f"The server at {url} is not available: {sentence.rstrip('.')}. "
                "Check that it runs, that this is its gRPC port (by default 8001, while 8000 is "
                f"HTTP), and any certificates.{proxy_advice(url)}"
            )
        case "DEADLINE_EXCEEDED":
            return deadline_exceeded(url, timeout_s)
        case "CANCELLED" if server_clock_us(message):
            return DeadlineExceededError(sentence)
        case "CANCELLED":
            return RequestCancelledError(f"The request to {url} was cancelled: {sentence}")
        case "UNAUTHENTICATED" | "PERMISSION_DENIED":
            return AuthenticationError(
                f"The server at {url} refused the call: {sentence.rstrip('.')}. "
                "Check the token and the metadata."
            )
        case "NOT_FOUND" | "UNIMPLEMENTED":
            advice = "Check the address." if version is None else _ASK_FOR_A_KEPT_ONE
            return WrongModelError(
                f"The server at {url} does not serve the model `{model_name(version)}`: "
                f"{sentence.rstrip('.')}. {advice}"
            )
        case code:
            return ServerError(
                f"The server at {url} failed ({code or 'no status'}): {sentence.rstrip('.')}. "
                "See its log for more."
            )


def deadline_exceeded(url: str, timeout_s: float) -> DeadlineExceededError:
    """Make the error of a call whose time is over."""
    return DeadlineExceededError(
        f"The server at {url} did not answer within {timeout_s:g} s. "
        "Allow more time, or send fewer images at once."
    )


def server_clock_us(message: str) -> int | None:
    """Return the server's Unix time in microseconds if it refused an expired request, or None."""
    found = _EXPIRED.search(message or "")
    return int(found[1]) if found else None


def lacks_output(message: str) -> bool:
    """Return whether a server refused a request because its model has no output of some name."""
    return "unexpected inference output" in (message or "")


def _output(result: Result, name: str, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    try:
        array = result.as_numpy(name)
    except Exception as error:  # the tensor's bytes do not fit its shape or type
        raise ServerError(
            f"The server's output {name} cannot be read ({error}). {_SERVE_AN_EXPORT}"
        ) from error
    given = None if array is None else array.shape
    if (
        array is None
        or array.ndim != len(shape)
        or any(size not in (None, got) for got, size in zip(array.shape, shape, strict=True))
    ):
        expected = tuple("any" if size is None else size for size in shape)
        raise ServerError(
            f"The server's output {name} has shape {given}; expected {expected}. {_SERVE_AN_EXPORT}"
        )
    if array.dtype.kind != "f" or not array.size or not np.isfinite(array).all():
        raise ServerError(
            f"The server's output {name} contains values that are not finite numbers. "
            "The cause is the served weights or their precision, not the image."
        )
    return array


def _sentence(message: str) -> str:
    """Return the server's sentence without Triton's prefix and without a traceback."""
    first_line = (message or "").strip().split("\n", 1)[0]
    return _WRAPPING.sub("", first_line) or "no reason given"
