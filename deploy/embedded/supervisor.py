"""Watches a running server and starts it again when it does not score any more."""

import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from embedded.canary import Canary, CanaryError
from embedded.errors import ServeError, ServerFailedError
from embedded.server import EmbeddedTriton

__all__ = ["Supervisor"]

CHECK_INTERVAL_S = 0.5
WINDOW_S = 600.0
LONGEST_PAUSE_S = 30.0


class Supervisor:
    """Restarts a server at the same ports, but not for ever.

    Args:
        server: is running.
        restarts: how many in ten minutes; one more failure ends the supervision.
        canary_interval_s: how often a test image is scored.
        say: is told about failures and restarts.
    """

    def __init__(
        self,
        server: EmbeddedTriton,
        restarts: int,
        canary_interval_s: float,
        say: Callable[[str], None],
    ):
        self._server = server
        self._restarts = restarts
        self._interval_s = canary_interval_s
        self._say = say
        self._failures: deque[float] = deque()

    def run(self) -> NoReturn:
        """Watch the server.

        Raises:
            ServeError: it has failed too often, or does not start again.
        """
        while True:
            try:
                self._watch()
            except ServerFailedError as error:
                self._recover(error)

    def _watch(self) -> NoReturn:
        canary = Canary(self._server.http)
        next_s = time.monotonic() + self._interval_s
        while True:
            gone = self._server.check()
            if gone or time.monotonic() >= next_s:
                self._sing(canary, gone)
                next_s = time.monotonic() + self._interval_s
            time.sleep(CHECK_INTERVAL_S)

    def _sing(self, canary: Canary, gone: list[str]) -> None:
        """Score a test image; processes that are gone and not missed were unloaded."""
        try:
            if canary.sing():
                self._server.accept_processes()
        except CanaryError as error:
            gone = gone or self._server.check()  # it may have died while the canary sang
            died = f"The process of model {', '.join(gone)} ended unexpectedly. " if gone else ""
            raise ServerFailedError(
                f"{died}The server does not score any more: {error}. "
                f"Its log: {self._server.log_file}",
                self._server.log_file,
            ) from error

    def _recover(self, error: ServeError) -> None:
        """Start the server again, after a pause that grows with the number of failures."""
        while True:
            now_s = time.monotonic()
            while self._failures and now_s - self._failures[0] > WINDOW_S:
                self._failures.popleft()
            if len(self._failures) >= self._restarts:
                raise error
            pause_s = min(LONGEST_PAUSE_S, 2.0 ** len(self._failures) - 1.0)
            self._failures.append(now_s)
            self._say(f"{error} Starting it again.")
            time.sleep(pause_s)
            try:
                self._server.restart()
            except ServeError as failure:
                error = failure
            else:
                self._say(f"Serving again at {self._server.grpc_url}.")
                return
