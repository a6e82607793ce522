"""Which of several servers gets the next request. Does no input or output."""

import threading
import time
from collections.abc import Callable

_PAUSE_S = 1.0


class Balancer:
    """Gives each request to the server with the fewest requests in flight. Thread-safe.

    Fewest in flight, rather than each server in turn, because servers may differ in speed. A server
    that was not available gets no request for a second, unless no server is available.
    """

    def __init__(self, count: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._in_flight = [0] * count
        self._paused_until = [0.0] * count
        self._turn = 0

    def acquire(self) -> int:
        """Choose a server and count a request for it, until `release`."""
        with self._lock:
            count, now = len(self._in_flight), self._now()
            turns = [(self._turn + step) % count for step in range(count)]
            available = [server for server in turns if self._paused_until[server] <= now]
            if available:
                chosen = min(available, key=self._in_flight.__getitem__)
            else:
                chosen = min(turns, key=self._paused_until.__getitem__)
            self._turn = (chosen + 1) % count
            self._in_flight[chosen] += 1
            return chosen

    def release(self, server: int) -> None:
        """Note that a request has been answered, or has failed."""
        with self._lock:
            self._in_flight[server] -= 1

    def pause(self, server: int) -> bool:
        """Note that a server is not available; return whether another one may be."""
        with self._lock:
            now = self._now()
            self._paused_until[server] = now + _PAUSE_S
            return any(until <= now for until in self._paused_until)
