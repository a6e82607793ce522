"""Liveness by a real inference: exits with 0 if an image is scored, with 1 if not.

    python3 probe.py [--url http://localhost:8000] [--timeout SECONDS]

Triton's own health stays good when the Python process of a model has died, so this asks for a
score. It uses nothing but Python's library, is out of the metrics of scores (parameter `canary`),
and is not worked on after its time is over (`deadline_unix_us`).

Over HTTP nobody else scores: serve.sh writes the key that allows it to PROBE_KEY_FILE.

A server that turns the image away because it has too much to do is alive if others get their scores
meanwhile: restarting it would only send its load to the others.
"""

import argparse
import json
import math
import os
import struct
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

__all__ = ["NotAliveError", "score_canary", "scores_others"]

SIDE = 32
LAST_MODEL = "maniqa_moe"
"""The model that every score comes from, whichever version is asked for."""

POLL_S = 0.2


class NotAliveError(Exception):
    """The server does not score."""


def score_canary(url: str, timeout_s: float, key: str = "") -> float | None:
    """Score a small gray image.

    Args:
        url: of the server's HTTP.
        timeout_s: how long to wait.
        key: opens inference over HTTP, where it is closed.

    Returns:
        Its score; None if the server is too busy to take it.

    Raises:
        NotAliveError: no answer in time, an error, or a score that is not a finite number.
    """
    end = time.monotonic() + timeout_s
    try:
        with urllib.request.urlopen(_request(url, timeout_s, key), timeout=timeout_s) as answer:
            body = answer.read()
            header = int(answer.headers.get("Inference-Header-Content-Length", len(body)))
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:500]
        if error.code == 503 and scores_others(url, end - time.monotonic()):
            return None
        raise NotAliveError(f"The server answered with {error.code}: {said}") from error
    except OSError as error:
        raise NotAliveError(f"No answer from {url} within {timeout_s:g} s: {error}") from error
    return _score(body, header)


def scores_others(url: str, timeout_s: float) -> bool:
    """Whether the server finishes scores within so many seconds; it asks its statistics."""
    end = time.monotonic() + timeout_s
    before = _finished(url)
    while time.monotonic() < end:
        time.sleep(POLL_S)
        if before is not None and _finished(url) not in (before, None):
            return True
    return False


def _finished(url: str) -> int | None:
    """Executions of the last model since the start; None if the server does not say."""
    try:
        with urllib.request.urlopen(f"{url}/v2/models/{LAST_MODEL}/stats", timeout=2) as answer:
            return sum(model["execution_count"] for model in json.load(answer)["model_stats"])
    except (OSError, ValueError, KeyError):
        return None


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
        f"{url}/v2/models/ma_agiqa/infer",
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


def _key() -> str:
    file = Path(os.environ.get("PROBE_KEY_FILE", "/tmp/ma-agiqa-probe-key"))
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""  # a server that was started in another way may be open


def main() -> int:
    """Ask the server; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://localhost:8000", help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds; default: %(default)s")
    arguments = parser.parse_args()
    try:
        score = score_canary(arguments.url, arguments.timeout, _key())
    except NotAliveError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        "alive, and busy with others\n" if score is None else f"alive, score {score:.3f}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
