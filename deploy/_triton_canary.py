"""A real scoring request at intervals: tritonserver says that it is healthy when it is not.

A python stub that has died is never started again (2.51), and a network can hang; both leave
/v2/health/ready at 200. Being slow is no fault: while the server is busy, the canary waits in the
same queue as everybody, so it gives up on the server only if nobody gets an answer any more.
"""

import time

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from _triton_self_test import ENSEMBLE, score_test_image

__all__ = ["Canary", "CanaryError"]

TIMEOUT_S = 5.0
HANGING_AFTER_S = 60.0
_BUSY = ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")


class CanaryError(Exception):
    """The server does not score; the message says what it does instead."""


class Canary:
    """Scores a test image with every ensemble that clients may ask for."""

    def __init__(self, grpc_url: str, hanging_after_s: float = HANGING_AFTER_S):
        """Prepare the requests.

        Args:
            grpc_url: HOST:PORT.
            hanging_after_s: how long nobody may get an answer, if there are requests.
        """
        self._client = tritonclient.grpc.InferenceServerClient(grpc_url)
        self._hanging_after_s = hanging_after_s
        self._answered = 0
        self._last_progress_s = time.monotonic()

    def sing(self) -> bool:
        """Send the requests; return whether all were answered, and not only others' of late.

        Raises:
            CanaryError: the server fails, or nobody has got an answer for too long.
        """
        for model in self._ensembles():
            try:
                score_test_image(self._client, model, TIMEOUT_S)
            except InferenceServerException as error:
                if error.status() not in _BUSY:
                    raise CanaryError(f"{model} fails: {_first_line(error)}") from error
                self._check_progress(model, error)
                return False
        self._last_progress_s = time.monotonic()
        return True

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ensembles(self) -> list[str]:
        """The ensemble, and those of the kept versions; the first alone if nobody says."""
        try:
            stats = self._client.get_inference_statistics(client_timeout=TIMEOUT_S).model_stats
        except InferenceServerException:
            return [ENSEMBLE]
        names = {model.name for model in stats if model.name.startswith(ENSEMBLE)}
        answered = sum(m.inference_stats.success.count for m in stats if m.name in names)
        if answered != self._answered:
            self._answered, self._last_progress_s = answered, time.monotonic()
        return sorted(names) or [ENSEMBLE]

    def _check_progress(self, model: str, error: InferenceServerException) -> None:
        silence_s = time.monotonic() - self._last_progress_s
        if silence_s > self._hanging_after_s:
            raise CanaryError(
                f"{model} has answered nobody for {silence_s:.0f} s: {_first_line(error)}"
            ) from error


def _first_line(error: InferenceServerException) -> str:
    return (error.message() or "no reason given").split("\n")[0].rstrip(".")
