"""Watches a running server, and restarts it when it no longer scores."""

import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from embedded.errors import ServeError, ServerFailedError
from embedded.health import Health, NoAnswerError, NotScoringError
from embedded.log import where_is
from embedded.server import EmbeddedTriton

POLL_S = 0.5
RECHECK_S = 1.0
"""After a failed check: models that are exchanged at that moment cause an error, too."""
CHECK_TIMEOUT_S = 6.5
ERRORS_ALLOWED = 3
"""One more failed check in a row means that the server has failed."""
UNLOADING_S = 5.0
"""Within this time all processes of a version end that is unloaded."""
SILENCE_ALLOWED_S = 60.0
"""How long no image may get a score while images wait: a large batch takes long."""
RESTART_WINDOW_S = 600.0
LONGEST_PAUSE_S = 30.0


class Supervisor:
    """Restarts a server at the same ports, a limited number of times.

    Args:
        server: a running server.
        restarts: number of restarts in ten minutes; one more failure ends the supervision.
        check_interval_s: how often a test image is scored.
        report: is called with a sentence about each failure and restart.
    """

    def __init__(
        self,
        server: EmbeddedTriton,
        restarts: int,
        check_interval_s: float,
        report: Callable[[str], None],
    ):
        self._server = server
        self._restarts = restarts
        self._interval_s = check_interval_s
        self._report = report
        self._failures: deque[float] = deque()

    def run(self) -> NoReturn:
        """Watch the server.

        Raises:
            ServeError: it has failed too often, or does not start again.
        """
        while True:
            try:
                _Watch(self._server, self._interval_s).run()
            except ServerFailedError as error:
                self._recover(error)

    def _recover(self, error: ServeError) -> None:
        """Start the server again, after a pause that grows with the number of failures."""
        while True:
            now_s = time.monotonic()
            while self._failures and now_s - self._failures[0] > RESTART_WINDOW_S:
                self._failures.popleft()
            if len(self._failures) >= self._restarts:
                raise error
            pause_s = min(LONGEST_PAUSE_S, 2.0 ** len(self._failures) - 1.0)
            self._failures.append(now_s)
            self._report(f"{error} Starting it again.")
            time.sleep(pause_s)
            try:
                self._server.restart()
            except ServeError as failure:
                error = failure
            else:
                self._report(f"Serving again at {self._server.grpc_url}.")
                return


class _Watch:
    """Checks a server until it fails."""

    def __init__(self, server: EmbeddedTriton, interval_s: float):
        self._server = server
        self._interval_s = interval_s
        self._health = Health(server.http)
        self._errors = 0
        self._last_score_s = time.monotonic()
        self._halved_s: float | None = None  # since when a model has lost some of its processes

    def run(self) -> NoReturn:
        """Look at the processes often, and score a test image at intervals.

        Raises:
            ServerFailedError: tritonserver has ended, or no longer scores.
        """
        next_s = time.monotonic() + self._interval_s
        while True:
            dead = self._server.check()
            if dead or time.monotonic() >= next_s:
                self._check(dead)
                pause_s = RECHECK_S if self._errors else self._interval_s
                next_s = time.monotonic() + pause_s
            time.sleep(POLL_S)

    def _check(self, dead: list[str]) -> None:
        """Score a test image; if that works, processes that have ended belonged to old versions."""
        try:
            if self._health.check(CHECK_TIMEOUT_S, deadline_s=SILENCE_ALLOWED_S):
                self._accept_processes()
        except NoAnswerError as error:
            silence_s = time.monotonic() - self._last_score_s
            if silence_s > SILENCE_ALLOWED_S:
                reason = f"no image got a score for {silence_s:.0f} s; {error}"
                raise self._failure(reason, dead) from error
        except NotScoringError as error:
            self._errors += 1
            dead = dead or self._server.check()  # a process may have died during the check
            if dead or self._errors > ERRORS_ALLOWED:
                raise self._failure(str(error), dead) from error
        else:
            self._errors, self._last_score_s = 0, time.monotonic()

    def _accept_processes(self) -> None:
        halved, now_s = self._server.accept_processes(), time.monotonic()
        if not halved:
            self._halved_s = None
        elif self._halved_s is None:
            self._halved_s = now_s
        elif now_s - self._halved_s > UNLOADING_S:
            raise self._failure("what is sent to that process fails", halved)

    def _failure(self, reason: str, dead: list[str]) -> ServerFailedError:
        died = f"The process of model {', '.join(dead)} ended unexpectedly. " if dead else ""
        return ServerFailedError(
            f"{died}The server no longer scores: {reason}. {where_is(self._server.log_file)}",
            self._server.log_file,
        )
