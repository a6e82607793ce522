"""When a call is sent again, and when it fails for good. Does no input or output."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Retry"]


@dataclass(frozen=True)
class Retry:
    """How long to retry while the server is not available; `Scorer` lists what is retried.

    The delays double from `initial_backoff_s` to `max_backoff_s`. Each is shortened at random by up
    to a half, so that many clients do not return at the same moment. All retries of a call happen
    within its `timeout_s`.

    All calls of a scorer share the budget of an outage: a thousand images for a server that is gone
    fail after one budget, not after a thousand.

    Attributes:
        budget_s: seconds to wait during an outage, such as a restart of the server.
        connect_budget_s: the same until the first answer, when a wrong address is more likely.
        initial_backoff_s: seconds before the first retry.
        max_backoff_s: maximum seconds between two tries.
    """

    budget_s: float = 30.0
    connect_budget_s: float = 3.0
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("budget_s", "connect_budget_s", "initial_backoff_s", "max_backoff_s"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name} is {value}; expected 0 or more seconds.")

    def delay_s(self, tries: int, jitter: float) -> float:
        """Return the seconds to wait after `tries` tries; `jitter` is a random number in 0-1."""
        doubled = self.initial_backoff_s * 2.0 ** min(tries - 1, 30)
        return min(doubled, self.max_backoff_s) * (1.0 - jitter / 2)


class Clock:
    """The time that one call has left.

    Attributes:
        timeout_s: seconds that the whole call may take.
    """

    def __init__(self, timeout_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Raises:
            ValueError: `timeout_s` is not positive.
        """
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s}; expected more than 0 seconds.")
        self.timeout_s = timeout_s
        self._now = now
        self._started = now()

    def elapsed_ms(self) -> float:
        """Return the milliseconds since the start."""
        return (self._now() - self._started) * 1e3

    def left_s(self) -> float:
        """Return the seconds left; negative if the time is over."""
        return self.timeout_s - (self._now() - self._started)


class Outage:
    """How long no server has answered, shared by the calls of a scorer. Thread-safe."""

    def __init__(
        self,
        retry: Retry,
        now: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._retry = retry
        self._now = now
        self._jitter = jitter
        self._lock = threading.Lock()
        self._answered = False
        self._began: float | None = None
        self._last = 0.0

    def ended(self) -> None:
        """Note that a server answered."""
        self._answered = True
        self._began = None

    def delay_s(self, tries: int, left_s: float) -> float | None:
        """Note a failed try; return how long to wait before the next one.

        Args:
            tries: how often this call has been sent.
            left_s: seconds that the call has left.

        Returns:
            Seconds, or None if the call is not to be sent again.
        """
        budget_s = self._retry.budget_s if self._answered else self._retry.connect_budget_s
        with self._lock:
            now = self._now()
            if self._began is None or now - self._last > max(budget_s, 1.0):
                self._began = now  # no call was made for long: the last outage may be over
            self._last = now
            lasted_s = now - self._began
        delay_s = self._retry.delay_s(tries, self._jitter())
        return delay_s if lasted_s + delay_s <= budget_s and delay_s < left_s else None
