"""Calls on threads that can be given up from another thread."""

import threading
import weakref

from ma_agiqa_client._core.protocol import Result
from ma_agiqa_client._wire.grpc import PendingResult
from ma_agiqa_client.errors import RequestCancelledError

__all__ = ["CallGroup", "cancelled"]


def cancelled() -> RequestCancelledError:
    """The error of a call that was given up."""
    return RequestCancelledError(
        "The call was given up, because its scorer or its iterator was closed meanwhile."
    )


class CallGroup:
    """Calls that are given up together, such as those of one `score_many`. Thread-safe."""

    def __init__(self, parent: "CallGroup | None" = None) -> None:
        """Start empty; a group is cancelled with its parent."""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._pending: dict[int, PendingResult] = {}
        self._groups: weakref.WeakSet[CallGroup] = weakref.WeakSet()
        if parent:
            with parent._lock:
                parent._groups.add(self)

    def wait_for(self, pending: PendingResult) -> Result:
        """Wait for an answer; give the call up if the wait is interrupted."""
        with self._lock:
            self._pending[id(pending)] = pending
        try:
            if self._over.is_set():
                raise cancelled()
            return pending.result()
        except BaseException:
            pending.cancel()
            raise
        finally:
            with self._lock:
                del self._pending[id(pending)]

    def sleep(self, seconds: float) -> None:
        """Wait for some time.

        Raises:
            RequestCancelledError: the group was cancelled meanwhile.
        """
        if self._over.wait(seconds):
            raise cancelled()

    def cancel(self) -> None:
        """Give up every call under way and every later one."""
        self._over.set()
        with self._lock:
            pending, groups = list(self._pending.values()), list(self._groups)
        for call in pending:
            call.cancel()
        for group in groups:
            group.cancel()
