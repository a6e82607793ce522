"""Turns tritonserver's log into one JSON object per line, for log collectors.

    tritonserver ... 2>&1 | python deploy/monitoring/json_log.py
    python deploy/monitoring/json_log.py < logs/serve-8001.log

Reads the format of `--log-format=ISO8601`:

    2026-11-23T12:32:53Z I 3873 server.cc:345] "a message, with quotes and line breaks escaped"

Each line becomes `time`, `level`, `pid`, `source` and `message`. A message that is a JSON object
itself, such as the request log of the served steps, becomes fields of its own next to them. What is
not in that format (tables, what libraries print) becomes `message` alone, so nothing is lost.
"""

import contextlib
import io
import json
import re
import sys
from typing import IO

__all__ = ["convert", "parse"]

LEVELS = {"I": "info", "W": "warning", "E": "error", "V": "verbose"}
_LINE = re.compile(r"^(\S+T\S+Z) ([IWEV]) (\d+) (\S+:\d+)\] ?(.*)$")


def parse(line: str) -> dict[str, object]:
    """Read one line, without its line break."""
    found = _LINE.match(line)
    if not found:
        return {"message": line}
    time, level, pid, source, text = found.groups()
    fields = {"time": time, "level": LEVELS[level], "pid": int(pid), "source": source}
    message = _unquoted(text)
    said = _json_object(message)
    return {**said, **fields} if said else {**fields, "message": message}


def convert(lines: IO[str], output: IO[str]) -> None:
    """Write the object of each line immediately, so that a collector is never behind.

    What cannot be written, as on a full disk, is discarded: unread lines would block the server.
    """
    for line in lines:
        with contextlib.suppress(OSError, ValueError):
            output.write(json.dumps(parse(line.rstrip("\n")), ensure_ascii=False) + "\n")
            output.flush()


def _unquoted(text: str) -> str:
    if text[:1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text.strip('"')


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text) if text[:1] == "{" else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


if __name__ == "__main__":
    convert(io.TextIOWrapper(sys.stdin.buffer, errors="replace"), sys.stdout)
