"""The load generator: requests to a served ensemble over gRPC, in every pattern that is measured.

    Target          one server: `infer` sends a request and waits, `send` does not wait
    ConstantLoad    always the same number of requests in flight (closed loop)
    measure         throughput and latency under a constant load
    send_at_rate    requests at random times, regardless of earlier ones (open loop)

Nothing is tried again: every failure is counted.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

MODEL = "ma_agiqa"
WRONG = "WRONG ANSWER"
ANSWER_TIMEOUT_S = 600.0
_MAX_MESSAGE_BYTES = 2**31 - 1
_POLL_S = 0.02


class LoadError(click.ClickException):
    """A load test that cannot be run; the message says why, and what to do."""


@dataclass(frozen=True)
class Answer:
    """The outcome of one request.

    Attributes:
        sent_s: time of `time.perf_counter` when it was sent.
        end_s: time of `time.perf_counter` when the answer came.
        scores: MOS of its images; empty if they were not scored.
        status: None if all images were scored; else the gRPC status, or `WRONG`.
        message: the server's message about a failure.
    """

    sent_s: float
    end_s: float
    scores: tuple[float, ...] = ()
    status: str | None = None
    message: str = ""

    @property
    def seconds(self) -> float:
        """Latency."""
        return self.end_s - self.sent_s


class Target:
    """The ensemble of one server, by one gRPC channel.

    Args:
        url: HOST:PORT of the server's gRPC port.
        images: number of images in a request.
    """

    def __init__(self, url: str, images: int = 1) -> None:
        self.url = url
        self.images = images
        sizes = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        options = [(size, _MAX_MESSAGE_BYTES) for size in sizes]
        options.append(("grpc.enable_http_proxy", 0))  # the server is measured, not a proxy
        self._client = InferenceServerClient(url, channel_args=options)
        self._outputs = [InferRequestedOutput(name) for name in ("SCORE", "GATE")]

    def __enter__(self) -> "Target":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check(self) -> None:
        """Raise `LoadError` unless the ensemble is there."""
        try:
            ready = self._client.is_model_ready(MODEL)
        except InferenceServerException as error:
            raise LoadError(
                f"No server answers at {self.url}: {error.message()}. Give the address of a "
                "running server, or leave --url out to start one here."
            ) from error
        if not ready:
            raise LoadError(f"The server at {self.url} does not serve the ensemble {MODEL!r}.")

    def requests(self, files: Sequence[bytes]) -> list[InferInput]:
        """Requests with the `batches` of some files."""
        return [_image_input(batch) for batch in batches(files, self.images)]

    def infer(
        self,
        request: InferInput,
        deadline_s: float | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """Send a request and wait for its answer.

        Args:
            request: one of `requests`.
            deadline_s: seconds after which the server may drop the request.
            timeout_s: seconds after which this call gives up.
        """
        sent_s = time.perf_counter()
        try:
            result = self._client.infer(MODEL, [request], **self._options(deadline_s, timeout_s))
        except InferenceServerException as error:
            return _failure(sent_s, error)
        return self._answer(sent_s, result)

    def send(
        self, request: InferInput, done: Callable[[Answer], None], deadline_s: float | None = None
    ) -> None:
        """Send a request; `done` is called with the answer, on another thread."""
        sent_s = time.perf_counter()

        def receive(result: InferResult | None, error: InferenceServerException | None) -> None:
            done(_failure(sent_s, error) if error else self._answer(sent_s, result))

        options = self._options(deadline_s, ANSWER_TIMEOUT_S)
        self._client.async_infer(MODEL, [request], receive, **options)

    def _options(self, deadline_s: float | None, timeout_s: float) -> dict[str, object]:
        options: dict[str, object] = {"outputs": self._outputs, "client_timeout": timeout_s}
        if deadline_s is not None:
            deadline_us = time.time_ns() // 1000 + round(deadline_s * 1e6)
            options["parameters"] = {"deadline_unix_us": deadline_us}
        return options

    def _answer(self, sent_s: float, result: InferResult) -> Answer:
        end_s = time.perf_counter()
        scores, gates = result.as_numpy("SCORE"), result.as_numpy("GATE")
        shapes = [None if array is None else array.shape for array in (scores, gates)]
        if shapes != [(self.images, 1), (self.images, 3)] or not np.isfinite(scores).all():
            message = f"SCORE {scores}, GATE {gates}"
            return Answer(sent_s, end_s, status=WRONG, message=message)
        return Answer(sent_s, end_s, tuple(scores[:, 0].tolist()))


def _failure(sent_s: float, error: InferenceServerException) -> Answer:
    status = str(error.status()).removeprefix("StatusCode.")
    return Answer(sent_s, time.perf_counter(), status=status, message=str(error.message()))


class ConstantLoad:
    """Keeps a number of requests in flight while the context is open, then waits for the last.

    Args:
        target: server to send to.
        files: encoded images, sent in turn.
        in_flight: number of requests.

    Attributes:
        answers: all answers so far, in the order they came.
    """

    def __init__(self, target: Target, files: Sequence[bytes], in_flight: int) -> None:
        self.answers: list[Answer] = []
        self._target, self._in_flight = target, in_flight
        self._requests = itertools.cycle(target.requests(files))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "ConstantLoad":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, answers: int) -> None:
        """Wait until this many more answers have come, failures included."""
        wanted = len(self.answers) + answers
        while len(self.answers) < wanted:
            time.sleep(_POLL_S)

    def _work(self) -> None:
        ended: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        left = self._in_flight
        for _ in range(left):
            self._target.send(next(self._requests), ended.put)
        while left:
            self.answers.append(ended.get())
            if self._stop.is_set():
                left -= 1
            else:
                self._target.send(next(self._requests), ended.put)


@dataclass(frozen=True)
class Load:
    """What a constant load gave.

    Attributes:
        in_flight: number of requests in flight.
        images: number of images scored while the clock ran.
        seconds: how long it ran.
        latencies_ms: latency of each of these requests, float64 (N,).
        all_images: number of images scored, before and after the clock included.
    """

    in_flight: int
    images: int
    seconds: float
    latencies_ms: npt.NDArray[np.float64]
    all_images: int

    @property
    def images_per_s(self) -> float:
        """Throughput."""
        return self.images / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency that this share of the requests, in percent, did not exceed."""
        return float(np.percentile(self.latencies_ms, percent))


def measure(target: Target, files: Sequence[bytes], in_flight: int, seconds: float) -> Load:
    """Measure a server under a constant load.

    The clock starts when as many answers have come as requests are in flight: the steps are busy.

    Raises:
        LoadError: a request failed.
    """
    with ConstantLoad(target, files, in_flight) as load:
        load.wait_for(in_flight)
        begin_s = time.perf_counter()
        time.sleep(seconds)
        load.wait_for(1)
        end_s = time.perf_counter()
    for answer in load.answers:
        raise_failure(answer)
    timed = [answer for answer in load.answers if begin_s < answer.end_s <= end_s]
    return Load(
        in_flight=in_flight,
        images=len(timed) * target.images,
        seconds=end_s - begin_s,
        latencies_ms=np.array([answer.seconds * 1000 for answer in timed]),
        all_images=len(load.answers) * target.images,
    )


def send_at_rate(
    target: Target,
    files: Sequence[bytes],
    images_per_s: float,
    seconds: float,
    deadline_s: float,
) -> list[Answer]:
    """Send requests at random times, at a rate that does not depend on the answers.

    Args:
        target: server to send to.
        files: encoded images, sent in turn.
        images_per_s: mean rate.
        seconds: how long requests are sent; all answers are waited for.
        deadline_s: seconds after which the server may drop each request.

    Returns:
        The answers, in the order they came.
    """
    requests = itertools.cycle(target.requests(files))
    ended: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    random = np.random.default_rng(0)
    start_s, due_s, sent = time.perf_counter(), 0.0, 0
    while due_s < seconds:
        time.sleep(max(0.0, start_s + due_s - time.perf_counter()))
        target.send(next(requests), ended.put, deadline_s)
        sent += 1
        due_s += random.exponential(target.images / images_per_s)
    return [ended.get() for _ in range(sent)]


def batches(files: Sequence[bytes], size: int) -> list[list[bytes]]:
    """As many batches of this size as files; each file is in as many of them as one has images."""
    around = [*files] * (1 + -(-size // len(files)))
    return [around[i : i + size] for i in range(len(files))]


def raise_failure(answer: Answer) -> None:
    """Raise `LoadError` if a request failed."""
    if answer.status:
        raise LoadError(f"The server did not score an image: {answer.status}: {answer.message}")


def _image_input(files: Sequence[bytes]) -> InferInput:
    tensor = np.empty((len(files), 1), np.object_)
    tensor[:, 0] = files
    images = InferInput("IMAGE", tensor.shape, "BYTES")
    images.set_data_from_numpy(tensor)
    return images
