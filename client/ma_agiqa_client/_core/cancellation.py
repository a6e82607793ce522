"""Calls on threads that can be cancelled from another thread."""

import threading
import weakref

from ma_agiqa_client._core.protocol import Result
from ma_agiqa_client._core.transport import PendingResult
from ma_agiqa_client.errors import RequestCancelledError


def cancelled() -> RequestCancelledError:
    """Make the error of a cancelled call."""
    return RequestCancelledError(
        "The call was cancelled, because its scorer or its iterator was closed."
    )


class CallGroup:
    """Calls that are cancelled together, such as those of one `score_many`. Thread-safe."""

    def __init__(self, parent: "CallGroup | None" = None) -> None:
        """Start empty; a group is cancelled along with its parent."""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._pending: dict[int, PendingResult] = {}
        self._groups: weakref.WeakSet[CallGroup] = weakref.WeakSet()
        if parent:
            with parent._lock:
                parent._groups.add(self)

    def wait_for(self, pending: PendingResult) -> Result:
        """Wait for an answer; cancel the call if the wait is interrupted."""
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
            RequestCancelledError: the group was cancelled during the wait.
        """
        if self._over.wait(seconds):
            raise cancelled()

    def cancel(self) -> None:
        """Cancel every call in flight and every later one."""
        self._over.set()
        with self._lock:
            pending, groups = list(self._pending.values()), list(self._groups)
        for call in pending:
            call.cancel()
        for group in groups:
            group.cancel()
