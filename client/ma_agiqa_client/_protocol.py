"""What travels between client and server, without any input or output.

Builds requests, reads answers and names failures; who sends them, and how it waits, is for
`scorer.py` and `_transport.py`.

    encoded bytes --> IMAGE [1, 1] --> ensemble `ma_agiqa` --> SCORE [1, 1], GATE [1, 3],
                                                               PATCH_SCORE, PATCH_WEIGHT [1, h, w]
"""

import re
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import (  # type: ignore[import-untyped]
    InferInput,
    InferRequestedOutput,
)

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.score import Gate, Score

__all__ = [
    "GATE",
    "GATE_ORDER",
    "IMAGE",
    "MAX_RETRIES",
    "MODEL_NAME",
    "PATCH_SCORE",
    "PATCH_WEIGHT",
    "SCORE",
    "Result",
    "build_inputs",
    "build_outputs",
    "deadline_exceeded",
    "read_card",
    "read_score",
    "retry_delay_s",
    "to_client_error",
]

MODEL_NAME = "ma_agiqa"
IMAGE = "IMAGE"
SCORE = "SCORE"
GATE = "GATE"
PATCH_SCORE = "PATCH_SCORE"
PATCH_WEIGHT = "PATCH_WEIGHT"
GATE_ORDER = ("semantic", "coherence", "quality")
"""Order of the weights in GATE; the fields of `Gate`."""

MAX_RETRIES = 3
"""Further tries after the first, for UNAVAILABLE only."""

_FIRST_RETRY_S = 0.2
_RETRY_GROWTH = 3.0

_WRAPPING = re.compile(r"in ensemble '[^']*', |\[request id: [^]]*\] ")


class Result(Protocol):
    """An answer to an inference request, as tritonclient gives it."""

    def as_numpy(self, name: str) -> npt.NDArray[Any] | None:
        """The named output, or None if the answer has none of that name."""


def build_inputs(image: bytes) -> list[InferInput]:
    """Wrap one encoded image. `np.object_` on purpose: `np.bytes_` strips trailing zeros."""
    tensor = np.empty((1, 1), np.object_)
    tensor[0, 0] = image
    infer_input = InferInput(IMAGE, [1, 1], "BYTES")
    infer_input.set_data_from_numpy(tensor)
    return [infer_input]


def build_outputs(maps: bool) -> list[InferRequestedOutput]:
    """Name the outputs to send back; the patch maps only if asked for."""
    names = (SCORE, GATE, PATCH_SCORE, PATCH_WEIGHT) if maps else (SCORE, GATE)
    return [InferRequestedOutput(name) for name in names]


def read_card(config: Any) -> ModelCard:
    """Read the card from the ensemble's configuration (the protobuf `ModelConfig`).

    Raises:
        WrongModelError: inputs, outputs or parameters are not those of MA-AGIQA.
    """
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    if inputs != {IMAGE} or not {SCORE, GATE} <= outputs:
        raise WrongModelError(
            f"The served model `{config.name}` takes {sorted(inputs)} and gives {sorted(outputs)}; "
            f"expected {IMAGE} in and {SCORE}, {GATE} out. Serve the repository's ensemble."
        )
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    return ModelCard.from_parameters(parameters)


def read_score(result: Result, card: ModelCard, latency_ms: float, maps: bool) -> Score:
    """Read the answer for one image.

    Raises:
        ServerError: an output is missing, has another shape, or holds no finite number.
    """
    mos = float(_output(result, SCORE, (1, 1))[0, 0])
    weights = _output(result, GATE, (1, len(GATE_ORDER)))[0]
    return Score(
        mos=mos,
        normalized=card.normalize(mos),
        percentile=card.percentile(mos),
        gate=Gate.from_weights(weights),
        latency_ms=latency_ms,
        model=card.name,
        patch_score=_output(result, PATCH_SCORE, (1, None, None))[0] if maps else None,
        patch_weight=_output(result, PATCH_WEIGHT, (1, None, None))[0] if maps else None,
    )


def to_client_error(status: str | None, message: str, url: str, timeout_s: float) -> ClientError:
    """Name a failed call.

    Args:
        status: the gRPC status as tritonclient gives it, such as `StatusCode.UNAVAILABLE`.
        message: the server's or gRPC's sentence.
        url: whom the call went to.
        timeout_s: how long the whole call was allowed to take.
    """
    sentence = _sentence(message)
    match (status or "").removeprefix("StatusCode."):
        case "INVALID_ARGUMENT":
            return InvalidImageError(sentence)
        case "UNAVAILABLE":
            return ServerUnavailableError(
                f"The server at {url} is not available: {sentence.rstrip('.')}. "
                "Check that it runs and that the address is right."
            )
        case "DEADLINE_EXCEEDED":
            return deadline_exceeded(url, timeout_s)
        case "NOT_FOUND" | "UNIMPLEMENTED":
            return WrongModelError(
                f"The server at {url} does not serve the model `{MODEL_NAME}`: "
                f"{sentence.rstrip('.')}. Check the address."
            )
        case code:
            return ServerError(
                f"The server at {url} failed ({code or 'no status'}): {sentence.rstrip('.')}. "
                "Its log says more."
            )


def deadline_exceeded(url: str, timeout_s: float) -> DeadlineExceededError:
    """Say that the time is up."""
    return DeadlineExceededError(
        f"The server at {url} gave no answer within {timeout_s:g} s. "
        "Allow more time, or send fewer images at once."
    )


def retry_delay_s(error: ClientError, tries: int, left_s: float, jitter: float) -> float | None:
    """Decide whether to try again: only where the server was not available, and in time.

    Args:
        error: why the last try failed.
        tries: tries made so far, at least 1.
        left_s: seconds until the call's deadline.
        jitter: random number in 0-1, so that many clients do not come back at once.

    Returns:
        Seconds to wait before the next try, or None to give up.
    """
    if not isinstance(error, ServerUnavailableError) or tries > MAX_RETRIES:
        return None
    delay_s = _FIRST_RETRY_S * _RETRY_GROWTH ** (tries - 1) * (0.5 + jitter / 2)
    return delay_s if delay_s < left_s else None


def _output(result: Result, name: str, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    array = result.as_numpy(name)
    given = None if array is None else array.shape
    if array is None or len(array.shape) != len(shape):
        raise _unexpected(name, given, shape)
    if any(size not in (None, got) for got, size in zip(array.shape, shape, strict=True)):
        raise _unexpected(name, given, shape)
    if not np.isfinite(array).all():
        raise ServerError(
            f"The server's {name} holds numbers that are not finite. "
            "The served weights or their precision are at fault; the image is not."
        )
    return array


def _unexpected(name: str, given: Any, shape: tuple[int | None, ...]) -> ServerError:
    expected = tuple("any" if size is None else size for size in shape)
    return ServerError(
        f"The server's {name} has shape {given}; expected {expected}. "
        "Serve an ensemble written by export/to_triton.py."
    )


def _sentence(message: str) -> str:
    """The server's words without Triton's wrapping and without the lines of a traceback."""
    first_line = (message or "").strip().split("\n", 1)[0]
    return _WRAPPING.sub("", first_line) or "no reason given"
