"""Which of several servers gets the next request. Without any input or output."""

import threading
import time
from collections.abc import Callable

__all__ = ["Balancer"]

_REST_S = 1.0


class Balancer:
    """Gives each request to the server with the fewest under way. Thread-safe.

    Fewest under way, and not each in turn, because the servers' speeds may differ. A server that
    was not available rests for a second, unless all do.
    """

    def __init__(self, count: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._under_way = [0] * count
        self._rests_until = [0.0] * count
        self._turn = 0

    def take(self) -> int:
        """Choose a server and count a request for it; `give_back` takes it off again."""
        with self._lock:
            count, now = len(self._under_way), self._now()
            turns = [(self._turn + step) % count for step in range(count)]
            awake = [server for server in turns if self._rests_until[server] <= now]
            if awake:
                chosen = min(awake, key=self._under_way.__getitem__)
            else:
                chosen = min(turns, key=self._rests_until.__getitem__)
            self._turn = (chosen + 1) % count
            self._under_way[chosen] += 1
            return chosen

    def give_back(self, server: int) -> None:
        """Note that a request is answered, or has failed."""
        with self._lock:
            self._under_way[server] -= 1

    def rest(self, server: int) -> bool:
        """Note that a server is not available; say whether another one may be."""
        with self._lock:
            now = self._now()
            self._rests_until[server] = now + _REST_S
            return any(until <= now for until in self._rests_until)
