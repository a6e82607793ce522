r"""Tells a person why tritonserver did not start, from its log; and writes logs as JSON.

A line of the log, with the line breaks of the message escaped:

    2026-11-23T05:25:15Z E 67 a.cc:642] "failed to load 'm' version 1: Internal: X\n\nAt:\n ..."
"""

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monitoring.json_log import convert

_LOAD_FAILURE = re.compile(r"] \"?failed to load '([^']+)' version \d+: (.*?)\"?$")
_POLL_FAILURE = re.compile(r"Poll failed for model directory '([^']+)': (.*?)\"?$")
_ERROR = re.compile(r"^(?:error: |\S+ E \d+ \S+\] )\"?(.*?)\"?$")
_CODES = re.compile(
    r"^(?:(?:Internal|Invalid argument|Unavailable|Not found|TritonModelException): )+"
)
_BUSY_PORT = re.compile(r"already in use|No address added")
_NOISE = ("CudaDriverHelper", "NVML", "DCGM")
_MORE_SHM = "Free some of /dev/shm, or give the container more with --shm-size."
_HINTS = (
    ("No module named", "Install the package in the environment that runs deploy/serve.py."),
    ("shared memory", _MORE_SHM),
    ("No space left on device", _MORE_SHM),
    ("out of memory", "Free memory, or serve a smaller model."),
)
_JSON_END_TIMEOUT_S = 5.0


def explain_failure(log_file: Path | None) -> str:
    """One paragraph: which models failed and why, what to do if known, and where the log is."""
    lines = _lines(log_file)
    reasons = _model_failures(lines) or _last_error(lines)
    hints = [hint for words, hint in _HINTS if any(words in reason for reason in reasons)]
    return " ".join([*reasons, *dict.fromkeys(hints), where_is(log_file)])


def where_is(log_file: Path | None) -> str:
    """A sentence that says where to read the log."""
    return f"Its log: {log_file}" if log_file else "Its log says why."


def lost_the_race_for_a_port(log_file: Path | None) -> bool:
    """Whether the server ended because another program had taken one of its ports."""
    return any(_BUSY_PORT.search(line) for line in _lines(log_file))


@contextmanager
def output_as_json() -> Iterator[None]:
    """Write what this process and its children print as JSON lines on stdout, see `json_log`."""
    read_end, write_end = os.pipe()
    saved = os.dup(1), os.dup(2)
    source = os.fdopen(read_end, encoding="utf-8", errors="replace")
    target = os.fdopen(os.dup(1), "w", encoding="utf-8")
    converter = threading.Thread(target=convert, args=(source, target), daemon=True)
    converter.start()
    _redirect_output(write_end, write_end)
    os.close(write_end)
    try:
        yield
    finally:
        _redirect_output(*saved)
        converter.join(_JSON_END_TIMEOUT_S)


def _redirect_output(stdout: int, stderr: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)


def _lines(log_file: Path | None) -> list[str]:
    try:
        return log_file.read_text(errors="replace").splitlines() if log_file else []
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
    if errors:
        return [f"It said: {_first_sentence(errors[-1])}."]
    return ["Its log holds no error."] if lines else []


def _first_sentence(message: str) -> str:
    """The message without its status codes, traceback and escaped line breaks."""
    text = _CODES.sub("", message.split("\\n\\nAt:")[0])
    return text.replace("\\n", " ").replace("\\t", " ").strip().rstrip(".")
