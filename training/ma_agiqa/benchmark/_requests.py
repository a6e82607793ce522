"""Requests to a served ensemble: always so many on their way, or sent at a rate."""

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.serving.deadlines import PARAMETER

__all__ = ["Answer", "Load", "ServedEnsemble"]

_MODEL, _INPUT, _OUTPUT = "ma_agiqa", "IMAGE", "SCORE"
_ANSWER_TIMEOUT_S = 600.0
_MAX_MESSAGE_BYTES = 2**31 - 1


@dataclass(frozen=True)
class Load:
    """What came of one load.

    Attributes:
        concurrency: requests that were always on their way.
        images: that were scored while the clock ran.
        seconds: that it ran.
        latencies_ms: of each request, from sending it to having its scores.
    """

    concurrency: int
    images: int
    seconds: float
    latencies_ms: np.ndarray

    @property
    def images_per_s(self) -> float:
        """Throughput."""
        return self.images / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency that so many percent of the requests did not exceed."""
        return float(np.percentile(self.latencies_ms, percent))


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Attributes:
        status: None if its images were scored, or the name of the gRPC status.
        seconds: from sending it to its answer.
        end_s: when the answer came, in seconds since the first request.
    """

    status: str | None
    seconds: float
    end_s: float


class ServedEnsemble:
    """The ensemble `ma_agiqa` at one address."""

    def __init__(self, url: str, images: int = 1) -> None:
        """Connect, and see that the ensemble is there.

        Args:
            url: HOST:PORT of the server's gRPC port.
            images: of a request.

        Raises:
            ConfigError: it is not.
        """
        self._images = images
        self._client = InferenceServerClient(
            url,
            channel_args=[
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ],
        )
        try:
            ready = self._client.is_model_ready(_MODEL)
        except InferenceServerException as error:
            raise ConfigError(
                f"No server answers at {url}: {error.message()}. Give the address of a running "
                "one, or leave --url out to start one here."
            ) from error
        if not ready:
            raise ConfigError(f"The server at {url} does not serve the ensemble {_MODEL!r}.")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def load(self, files: Sequence[bytes], concurrency: int, seconds: float) -> Load:
        """Keep `concurrency` requests on their way for a while.

        The clock starts when the first `concurrency` answers are there, so that pipes are full.

        Args:
            files: encoded images, sent in turn.
            concurrency: how many requests.
            seconds: how long the clock runs.

        Raises:
            DataError: a request failed.
        """
        inputs = self._inputs(files)
        answers: queue.SimpleQueue[tuple[float, float, Exception | None]] = queue.SimpleQueue()
        sent = 0

        def send() -> None:
            nonlocal sent
            start = time.perf_counter()
            self._client.async_infer(
                _MODEL,
                [inputs[sent % len(inputs)]],
                lambda result, error: answers.put(
                    (start, time.perf_counter(), self._wrong(result, error))
                ),
                outputs=[InferRequestedOutput(_OUTPUT)],
                client_timeout=_ANSWER_TIMEOUT_S,
            )
            sent += 1

        for _ in range(concurrency):
            send()
        latencies_ms: list[float] = []
        begin = end = 0.0
        received = 0
        while not begin or end - begin < seconds:
            start, end, error = answers.get()
            _raise(error)
            send()
            received += 1
            if received == concurrency:
                begin = end
            elif received > concurrency:
                latencies_ms.append((end - start) * 1000)
        for _ in range(concurrency):
            _raise(answers.get()[2])
        images = len(latencies_ms) * self._images
        return Load(concurrency, images, end - begin, np.array(latencies_ms))

    def one(self, file: bytes) -> float:
        """Seconds that one image takes.

        Raises:
            DataError: it is not scored.
        """
        start = time.perf_counter()
        try:
            self._client.infer(_MODEL, [_image_input([file])], client_timeout=_ANSWER_TIMEOUT_S)
        except InferenceServerException as error:
            _raise(error)
        return time.perf_counter() - start

    def send(
        self, files: Sequence[bytes], images_per_s: float, seconds: float, deadline_s: float
    ) -> list[Answer]:
        """Send requests at random times, at a rate that does not depend on the answers.

        Args:
            files: encoded images, sent in turn.
            images_per_s: mean rate.
            seconds: how long requests are sent; all answers are waited for.
            deadline_s: after which each request's answer is not wanted any more.

        Returns:
            The answers, in the order they came.
        """
        inputs = self._inputs(files)
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        first = time.perf_counter()

        def send(number: int) -> None:
            start = time.perf_counter()

            def note(result: InferResult | None, error: Exception | None) -> None:
                now = time.perf_counter()
                answers.put(Answer(_status(self._wrong(result, error)), now - start, now - first))

            self._client.async_infer(
                _MODEL,
                [inputs[number % len(inputs)]],
                note,
                outputs=[InferRequestedOutput(_OUTPUT)],
                parameters={PARAMETER: time.time_ns() // 1000 + round(deadline_s * 1e6)},
                client_timeout=_ANSWER_TIMEOUT_S,
            )

        pauses, due, sent = np.random.default_rng(0), 0.0, 0
        while due < seconds:
            time.sleep(max(0.0, first + due - time.perf_counter()))
            send(sent)
            sent += 1
            due += pauses.exponential(self._images / images_per_s)
        return [answers.get() for _ in range(sent)]

    def _inputs(self, files: Sequence[bytes]) -> list[InferInput]:
        """As many requests as files; each file is in as many of them as a request has images."""
        around = [*files] * (1 + -(-self._images // len(files)))
        return [_image_input(around[i : i + self._images]) for i in range(len(files))]

    def _wrong(self, result: InferResult | None, error: Exception | None) -> Exception | None:
        """What is wrong with an answer: an error, or scores that are none."""
        if result is None:
            return error
        scores = result.as_numpy(_OUTPUT)
        if scores.shape != (self._images, 1) or not np.isfinite(scores).all():
            return ValueError(f"{_OUTPUT} is {scores}")
        return None


def _status(error: Exception | None) -> str | None:
    if isinstance(error, InferenceServerException):
        return str(error.status()).removeprefix("StatusCode.")
    return str(error) if error else None


def _image_input(files: Sequence[bytes]) -> InferInput:
    tensor = np.empty((len(files), 1), np.object_)
    tensor[:, 0] = files
    images = InferInput(_INPUT, tensor.shape, "BYTES")
    images.set_data_from_numpy(tensor)
    return images


def _raise(error: Exception | None) -> None:
    if error:
        raise DataError(f"The server did not score an image: {error}") from error
