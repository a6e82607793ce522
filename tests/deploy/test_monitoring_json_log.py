"""The server's log as JSON, from lines that tritonserver 2.51 wrote and from a running server."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded_triton import EmbeddedTriton
from monitoring.json_log import convert, parse

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "monitoring" / "json_log.py"


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


def test_one_object_for_each_line():
    output = io.StringIO()
    convert(io.StringIO("a\nb ü\n"), output)
    assert [json.loads(line) for line in output.getvalue().splitlines()] == [
        {"message": "a"},
        {"message": "b ü"},
    ]


def test_the_request_log_of_a_running_server(tmp_path, monkeypatch):
    monkeypatch.setenv("MA_AGIQA_REQUEST_LOG", "1")
    log = tmp_path / "log"
    server = EmbeddedTriton(ROOT / "model_repository", free_ports=True, log_file=log)
    with server, tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for name, file in (("good", ROOT / "examples" / "coffee_blur.jpg"), ("bad", SCRIPT)):
            image = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
            image.set_data_from_numpy(np.array([[file.read_bytes()]], dtype=np.object_))
            with contextlib.suppress(InferenceServerException):  # the bad one
                client.infer("ma_agiqa", [image], request_id=f"{name} one", client_timeout=60)
    done = subprocess.run(
        [sys.executable, SCRIPT], stdin=log.open(), capture_output=True, check=True, text=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    requests = {line["request_id"]: line for line in lines if line.get("request_id")}
    assert requests["good one"]["outcome"] == "scored"
    assert requests["good one"]["step"] == "meter"
    assert requests["bad one"]["outcome"] == "refused"
    assert requests["bad one"]["step"] == "preprocess"
    assert requests["bad one"]["level"] == "info"
    assert any("Started GRPCInferenceService" in line.get("message", "") for line in lines)
