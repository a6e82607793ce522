"""A real scoring request at intervals: tritonserver says that it is healthy when it is not.

A python stub that has died is never started again (2.51), and a network can hang; both leave
/v2/health/ready at 200. Being slow is no fault: while the server is busy, the canary waits in the
same queue as everybody, so it gives up on the server only if nobody gets an answer any more.
"""

import time

from embedded.http import BusyError, RefusedError, TritonHttp
from embedded.self_test import ENSEMBLE

__all__ = ["Canary", "CanaryError"]

TIMEOUT_S = 5.0
HANGING_AFTER_S = 60.0


class CanaryError(Exception):
    """The server does not score; the message says what it does instead."""


class Canary:
    """Scores a test image with every ensemble that clients may ask for."""

    def __init__(self, server: TritonHttp, hanging_after_s: float = HANGING_AFTER_S):
        """Prepare the requests.

        Args:
            server: is asked.
            hanging_after_s: how long nobody may get an answer, if there are requests.
        """
        self._server = server
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
                self._server.score_test_image(model, TIMEOUT_S)
            except BusyError as error:
                self._check_progress(model, error)
                return False
            except RefusedError as error:
                raise CanaryError(f"{model} fails: {str(error).rstrip('.')}") from error
        self._last_progress_s = time.monotonic()
        return True

    def _ensembles(self) -> list[str]:
        """The ensemble, and those of the kept versions; the first alone if nobody says."""
        try:
            stats = self._server.get("/v2/models/stats", TIMEOUT_S)["model_stats"]
        except RefusedError:
            return [ENSEMBLE]
        counts = {
            model["name"]: model["inference_stats"]["success"].get("count", 0)
            for model in stats
            if model["name"].startswith(ENSEMBLE)
        }
        if sum(counts.values()) != self._answered:
            self._answered, self._last_progress_s = sum(counts.values()), time.monotonic()
        return sorted(counts) or [ENSEMBLE]

    def _check_progress(self, model: str, error: BusyError) -> None:
        silence_s = time.monotonic() - self._last_progress_s
        if silence_s > self._hanging_after_s:
            raise CanaryError(
                f"{model} has answered nobody for {silence_s:.0f} s: {str(error).rstrip('.')}"
            ) from error
