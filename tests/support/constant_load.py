"""Constant load on a real server, by the bare client: nothing is tried again."""

import threading
import time
from collections import Counter
from types import TracebackType

import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from exporter.golden import golden_images

__all__ = ["ConstantLoad"]


class ConstantLoad:
    """Threads that send one image after another while the context is open.

    Attributes:
        scores: how often each answer came, in order of time: (seconds since the start, score).
        failures: of each failed request, (seconds from the start to sending it, what it said).
    """

    def __init__(self, url: str, model: str = "ma_agiqa", threads: int = 4):
        self._url, self._model = url, model
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        self._stop = threading.Event()
        self._image = golden_images()[0]
        self._start = time.monotonic()
        self.scores: list[tuple[float, float]] = []
        self.failures: list[tuple[float, str]] = []

    def __enter__(self) -> "ConstantLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def errors(self) -> list[str]:
        """What the failed requests said."""
        return [said for _, said in self.failures]

    def wait_for(self, answers: int) -> None:
        """Wait until so many more answers have come, failures included."""
        wanted = len(self.scores) + len(self.failures) + answers
        while len(self.scores) + len(self.failures) < wanted:
            time.sleep(0.02)

    def seen(self, digits: int = 4) -> Counter[float]:
        """How often each score was given."""
        return Counter(round(score, digits) for _, score in self.scores)

    def _work(self) -> None:
        image = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[self._image]], dtype=np.object_))
        with tritonclient.grpc.InferenceServerClient(self._url) as client:
            while not self._stop.is_set():
                sent_s = time.monotonic() - self._start
                try:
                    result = client.infer(self._model, [image], client_timeout=120)
                except InferenceServerException as failure:
                    self.failures.append((sent_s, f"{failure.status()} {failure.message()}"))
                else:
                    score = float(result.as_numpy("SCORE")[0, 0])
                    self.scores.append((time.monotonic() - self._start, score))
