"""The server's log as JSON, from lines as tritonserver 2.51 writes them."""

import errno
import io
import json

import pytest

from monitoring.json_log import convert, parse


def test_a_line():
    line = '2026-11-23T12:32:53Z I 3873 server.cc:345] "loaded \\"m\\"\\nversion 1"'
    assert parse(line) == {
        "time": "2026-11-23T12:32:53Z",
        "level": "info",
        "pid": 3873,
        "source": "server.cc:345",
        "message": 'loaded "m"\nversion 1',
    }


def test_a_message_that_is_an_object_becomes_fields():
    inner = json.dumps({"request_id": "a1", "images": 2, "level": "mine"})
    line = f"2026-11-23T12:32:53Z W 7 pb_stub.cc:1] {json.dumps(inner)}"
    found = parse(line)
    assert (found["request_id"], found["images"], found["level"]) == ("a1", 2, "warning")
    assert "message" not in found


@pytest.mark.parametrize(
    "line", ["", "| meter | 1 | READY |", "Error: Failed to initialize NVML", '{"not": "ours"}']
)
def test_other_lines_are_kept_whole(line):
    assert parse(line) == {"message": line}


@pytest.mark.parametrize("text", ['"half', "{half", 'says "hi"', ""])
def test_odd_messages_are_kept(text):
    message = parse(f"2026-11-23T12:32:53Z E 7 a.cc:1] {text}")["message"]
    assert message == text.strip('"') if text.startswith('"') else message == text


def test_what_cannot_be_written_holds_up_no_later_line():
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    output = Full()
    convert(io.StringIO("a\nb\n"), output)
    assert output.getvalue().count("\n") == 2


def test_one_object_for_each_line():
    output = io.StringIO()
    convert(io.StringIO("a\nb ü\n"), output)
    assert [json.loads(line) for line in output.getvalue().splitlines()] == [
        {"message": "a"},
        {"message": "b ü"},
    ]
