"""Lets the requests under way finish before the server stops.

On SIGTERM tritonserver fails an ensemble's request at its next step. So the models that clients ask
for are unloaded first: from then on requests are refused ("has no available versions", which the
SDK takes as unavailable), and those under way are finished by the models they hold.
"""

import logging
import time

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from _triton_launch import ANSWERING_MODEL
from _triton_self_test import ENSEMBLE

__all__ = ["drain"]

POLL_S = 0.1
CALL_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


def drain(grpc_url: str, admin_key: str, timeout_s: float) -> bool:
    """Refuse new requests and wait for the others; return whether all were answered in time."""
    headers = {"triton-grpc-protocol-admin-key": admin_key}
    client = tritonclient.grpc.InferenceServerClient(grpc_url)
    try:
        asked = [name for name in _states(client, headers) if _is_asked_for(name)]
        for name in asked:
            client.unload_model(name, headers=headers, client_timeout=CALL_TIMEOUT_S)
        deadline = time.monotonic() + timeout_s
        while any(_states(client, headers).get(name) == "UNLOADING" for name in asked):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
    except InferenceServerException as error:  # it is gone, or going
        logger.debug("not drained: %s", error.message())
        return False
    finally:
        client.close()
    return True


def _is_asked_for(name: str) -> bool:
    return name.startswith(ENSEMBLE) or name == ANSWERING_MODEL


def _states(
    client: tritonclient.grpc.InferenceServerClient, headers: dict[str, str]
) -> dict[str, str]:
    """State of each model that has been loaded."""
    index = client.get_model_repository_index(headers=headers, client_timeout=CALL_TIMEOUT_S)
    return {model.name: model.state for model in index.models if model.state}
