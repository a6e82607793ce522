"""Lets requests in flight finish before the server stops.

On SIGTERM tritonserver fails an ensemble's request at its next step. So the models that clients ask
for are unloaded first: from then on requests are refused ("has no available versions", which the
SDK takes as unavailable), and those in flight are finished by the models they hold.
"""

import logging
import time

from embedded.health import ENSEMBLE
from embedded.http import GoneError, RefusedError, TritonHttp
from embedded.launch import ANSWERING_MODEL

POLL_S = 0.1
CALL_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


def drain(server: TritonHttp, timeout_s: float) -> bool:
    """Refuse new requests and wait for the others; return whether all were answered in time.

    A server with too many connections cannot read its repository, and says so: it is asked again.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if _has_finished(server):
                return True
        except GoneError:
            return False
        except RefusedError as error:
            logger.debug("not drained yet: %s", error)
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)


def _has_finished(server: TritonHttp) -> bool:
    """Unload what clients ask for, unless that was done; return whether none of it is left."""
    for name, state in server.states(CALL_TIMEOUT_S).items():
        if _is_asked_for(name) and state not in _UNLOADED:
            server.unload(name, CALL_TIMEOUT_S)
    states = server.states(CALL_TIMEOUT_S)
    return all(state == "UNAVAILABLE" for name, state in states.items() if _is_asked_for(name))


_UNLOADED = ("UNLOADING", "UNAVAILABLE")


def _is_asked_for(name: str) -> bool:
    return name.startswith(ENSEMBLE) or name == ANSWERING_MODEL
