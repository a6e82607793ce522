"""Liveness by a real inference: exits with 0 if an image is scored, with 1 if not.

    python3 probe.py [--url http://localhost:8000] [--timeout SECONDS]

Triton's own health stays good when the Python process of a model has died, so this asks for a
score. It uses nothing but Python's library, is out of the metrics of scores (parameter `canary`),
and is not worked on after its time is over (`deadline_unix_us`).

Over HTTP nobody else scores: serve.sh writes the key that allows it to PROBE_KEY_FILE. PROBE_URL
names another server than http://localhost:8000.

A server that turns the image away, or does not come to it in time, is alive if others got their
scores meanwhile: restarting it would only send its load to the others.
"""

import argparse
import http.client
import json
import math
import os
import struct
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

__all__ = ["DEFAULT_URL", "ENSEMBLE", "NotAliveError", "answered", "read_key", "score_canary"]

DEFAULT_URL = os.environ.get("PROBE_URL", "http://localhost:8000")
ENSEMBLE = "ma_agiqa"
"""What the names of the models that callers ask for begin with."""

SIDE = 32
STATISTICS_S = 1.5
"""How long the statistics may take; they are asked for twice, within the time of the probe."""

POLL_S = 0.2
BUSY = (http.HTTPStatus.SERVICE_UNAVAILABLE, 499)  # 499: the deadline was over


class NotAliveError(Exception):
    """The server does not score."""


def score_canary(url: str, timeout_s: float, key: str = "") -> float | None:
    """Score a small gray image.

    Args:
        url: of the server's HTTP.
        timeout_s: how long all of it may take.
        key: opens inference over HTTP, where it is closed.

    Returns:
        Its score; None if the server is too busy for it, and others got scores meanwhile.

    Raises:
        NotAliveError: an error, a score that is not a finite number, or none for anybody in time.
    """
    end = time.monotonic() + timeout_s - STATISTICS_S
    before = answered(url)
    left_s = max(0.1, end - time.monotonic())
    try:
        with urllib.request.urlopen(_request(url, left_s, key), timeout=left_s) as answer:
            body = answer.read()
            header = int(answer.headers.get("Inference-Header-Content-Length", len(body)))
        return _score(body, header)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:500]
        failure = NotAliveError(f"The server answered with {error.code}: {said}")
        if error.code not in BUSY:
            raise failure from error
    except (OSError, http.client.HTTPException) as error:
        failure = NotAliveError(f"No answer from {url} within {timeout_s:g} s: {error}")
    if before is None or not _answers_others(url, before, end):
        raise failure
    return None


def answered(url: str) -> int | None:
    """Requests for scores that got them since the start; None if the server does not say."""
    try:
        with urllib.request.urlopen(f"{url}/v2/models/stats", timeout=STATISTICS_S) as answer:
            models = json.load(answer)["model_stats"]
        asked = (model for model in models if model["name"].startswith(ENSEMBLE))
        return sum(model["inference_stats"]["success"].get("count", 0) for model in asked)
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None


def _answers_others(url: str, before: int, end: float) -> bool:
    """Whether more were answered than `before`; asks until `end`, and at least once."""
    while True:
        now = answered(url)
        if now is not None and now > before:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_S)


def _request(url: str, timeout_s: float, key: str) -> urllib.request.Request:
    """Triton's HTTP inference request with binary data: a JSON header, then the image."""
    pixels = bytes([127]) * (3 * SIDE * SIDE)
    image = f"P6 {SIDE} {SIDE} 255\n".encode() + pixels
    data = struct.pack("<I", len(image)) + image
    header = json.dumps(
        {
            "parameters": {
                "canary": True,
                "deadline_unix_us": int((time.time() + timeout_s) * 1e6),
            },
            "inputs": [
                {
                    "name": "IMAGE",
                    "shape": [1, 1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "outputs": [{"name": "SCORE", "parameters": {"binary_data": False}}],
        }
    ).encode()
    return urllib.request.Request(
        f"{url}/v2/models/{ENSEMBLE}/infer",
        data=header + data,
        headers={
            "Content-Type": "application/octet-stream",
            "closed": key,
            "Inference-Header-Content-Length": str(len(header)),
        },
    )


def _score(body: bytes, header: int) -> float:
    try:
        outputs = json.loads(body[:header])["outputs"]
        score = float(next(o for o in outputs if o["name"] == "SCORE")["data"][0])
    except (ValueError, KeyError, IndexError, StopIteration, TypeError) as error:
        raise NotAliveError(f"The answer holds no SCORE: {body[:200]!r}") from error
    if not math.isfinite(score):
        raise NotAliveError(f"The SCORE is {score}, expected a finite number.")
    return score


def read_key() -> str:
    """What opens HTTP for this program and drain.py; empty if there is none."""
    file = Path(os.environ.get("PROBE_KEY_FILE", "/tmp/ma-agiqa-probe-key"))
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""  # a server that was started in another way may be open


def main() -> int:
    """Ask the server; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default=DEFAULT_URL, help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds; default: %(default)s")
    arguments = parser.parse_args()
    try:
        score = score_canary(arguments.url, arguments.timeout, read_key())
    except NotAliveError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        "alive, and busy with others\n" if score is None else f"alive, score {score:.3f}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
