"""Lets requests in flight finish before the server stops.

On SIGTERM tritonserver fails an ensemble's request at its next step. So the models that clients ask
for are unloaded first: from then on requests are refused ("has no available versions", which the
SDK takes as unavailable), and those in flight are finished by the models they hold.
"""

import logging
import time

from embedded.health import ENSEMBLE
from embedded.http import RefusedError, TritonHttp
from embedded.launch import ANSWERING_MODEL

POLL_S = 0.1
CALL_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


def drain(server: TritonHttp, timeout_s: float) -> bool:
    """Refuse new requests and wait for the others; return whether all were answered in time."""
    try:
        asked = [name for name in server.states(CALL_TIMEOUT_S) if _is_asked_for(name)]
        for name in asked:
            server.unload(name, CALL_TIMEOUT_S)
        deadline = time.monotonic() + timeout_s
        while any(server.states(CALL_TIMEOUT_S).get(name) == "UNLOADING" for name in asked):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
    except RefusedError as error:  # it is gone, or about to go
        logger.debug("not drained: %s", error)
        return False
    return True


def _is_asked_for(name: str) -> bool:
    return name.startswith(ENSEMBLE) or name == ANSWERING_MODEL
