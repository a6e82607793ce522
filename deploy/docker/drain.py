"""Lets the requests under way finish before the server stops; serve.sh calls it on SIGTERM.

    python3 drain.py [--url http://localhost:8000] [--timeout SECONDS]

The models that callers ask for are unloaded: from then on requests are refused, which the SDK takes
as unavailable, and those under way are finished by the models they hold. Exits with 0 when all are
answered, with 1 if some were not in time. It uses nothing but Python's library.
"""

import argparse
import json
import sys
import time
import urllib.request

from probe import DEFAULT_URL, ENSEMBLE, read_key

__all__ = ["NotDrainedError", "drain"]

ANSWERING_MODEL = "mplug_owl2_answer"
POLL_S = 0.1
CALL_TIMEOUT_S = 10.0


class NotDrainedError(Exception):
    """Requests were under way when the time was over, or the server does not say."""


def drain(url: str, timeout_s: float, key: str = "") -> None:
    """Refuse new requests and wait for the others.

    Args:
        url: of the server's HTTP.
        timeout_s: how long to wait.
        key: opens the repository's services, where they are closed.

    Raises:
        NotDrainedError: not all were answered.
    """
    end = time.monotonic() + timeout_s
    try:
        asked = {name for name, _ in _states(url, key) if _is_asked_for(name)}
        for name in asked:
            _post(f"{url}/v2/repository/models/{name}/unload", key)
        while any(n in asked and state == "UNLOADING" for n, state in _states(url, key)):
            if time.monotonic() > end:
                raise NotDrainedError(
                    f"Requests were still under way after {timeout_s:g} s: allow more by DRAIN_S."
                )
            time.sleep(POLL_S)
    except OSError as error:
        raise NotDrainedError(f"{url} could not be drained: {error}") from error


def _is_asked_for(name: str) -> bool:
    return name.startswith(ENSEMBLE) or name == ANSWERING_MODEL


def _states(url: str, key: str) -> list[tuple[str, str]]:
    """Name and state of each version of a model that has been loaded."""
    models = json.loads(_post(f"{url}/v2/repository/index", key))
    return [(model["name"], model["state"]) for model in models if model.get("state")]


def _post(url: str, key: str) -> bytes:
    request = urllib.request.Request(url, data=b"{}", headers={"closed": key})
    with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S) as answer:
        return answer.read()


def main() -> int:
    """Drain the server; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default=DEFAULT_URL, help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds; default: %(default)s")
    arguments = parser.parse_args()
    try:
        drain(arguments.url, arguments.timeout, read_key())
    except NotDrainedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
