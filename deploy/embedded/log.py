r"""Tells a person why tritonserver did not start, from its log.

A line of the log, with the line breaks of the message escaped:

    2026-11-23T05:25:15Z E 67 a.cc:642] "failed to load 'm' version 1: Internal: X\n\nAt:\n ..."
"""

import re
from pathlib import Path

__all__ = ["explain_failure", "lost_the_race_for_a_port"]

_LOAD_FAILURE = re.compile(r"] \"?failed to load '([^']+)' version \d+: (.*?)\"?$")
_POLL_FAILURE = re.compile(r"Poll failed for model directory '([^']+)': (.*?)\"?$")
_ERROR = re.compile(r"^(?:error: |\S+ E \d+ \S+\] )\"?(.*?)\"?$")
_CODES = re.compile(
    r"^(?:(?:Internal|Invalid argument|Unavailable|Not found|TritonModelException): )+"
)
_BUSY_PORT = re.compile(r"already in use|No address added")
_NOISE = ("CudaDriverHelper", "NVML", "DCGM")
_HINTS = (
    ("No module named", "Install the package in the environment that runs deploy/serve.py."),
    ("shared memory", "Free some of /dev/shm, or give the container more with --shm-size."),
    (
        "No space left on device",
        "Free some of /dev/shm, or give the container more with --shm-size.",
    ),
    ("out of memory", "Free memory, or serve a smaller model."),
)


def explain_failure(log_file: Path) -> str:
    """One paragraph: which models failed and why, what to do if known, and where the log is."""
    lines = _lines(log_file)
    reasons = _model_failures(lines) or _last_error(lines)
    hints = [hint for words, hint in _HINTS if any(words in reason for reason in reasons)]
    return " ".join([*reasons, *dict.fromkeys(hints), f"Its log: {log_file}"])


def lost_the_race_for_a_port(log_file: Path) -> bool:
    """Whether the server ended because another program had taken one of its ports."""
    return any(_BUSY_PORT.search(line) for line in _lines(log_file))


def _lines(log_file: Path) -> list[str]:
    try:
        return log_file.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _model_failures(lines: list[str]) -> list[str]:
    failures = {}
    for line in lines:
        found = _LOAD_FAILURE.search(line) or _POLL_FAILURE.search(line)
        if found:
            failures[found[1]] = _first_sentence(found[2])
    return [f"Model {Path(name).name} failed to load: {why}." for name, why in failures.items()]


def _last_error(lines: list[str]) -> list[str]:
    errors = [found[1] for line in lines if (found := _ERROR.search(line))]
    errors = [error for error in errors if not any(noise in error for noise in _NOISE)]
    return [f"It said: {_first_sentence(errors[-1])}."] if errors else ["It said nothing."]


def _first_sentence(message: str) -> str:
    """The message without its status codes, traceback and escaped line breaks."""
    text = _CODES.sub("", message.split("\\n\\nAt:")[0])
    return text.replace("\\n", " ").replace("\\t", " ").strip().rstrip(".")
