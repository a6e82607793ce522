"""What the answers of a server's HTTP mean to the program that runs it."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from embedded.http import BusyError, GoneError, RefusedError, TritonHttp
from support.local_hub import free_port


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status, error, connections = 200, "", 0

    def setup(self) -> None:
        super().setup()
        Answers.connections += 1

    def do_GET(self) -> None:
        body = json.dumps({"error": self.error}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def triton(monkeypatch) -> Iterator[TritonHttp]:
    monkeypatch.setattr(Answers, "connections", 0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = TritonHttp(f"http://127.0.0.1:{server.server_port}", "key")
        yield client
        client.close()
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (503, "too many requests wait", BusyError),
        (400, "DEADLINE_EXCEEDED: the deadline was over", BusyError),
        (400, "the image is no image", RefusedError),
        (500, "a network failed", RefusedError),
    ],
)
def test_a_server_that_is_late_or_full_is_busy(triton, monkeypatch, status, error, expected):
    monkeypatch.setattr(Answers, "status", status)
    monkeypatch.setattr(Answers, "error", error)
    with pytest.raises(RefusedError, match=error) as caught:
        triton.get("/", 5.0)
    assert type(caught.value) is expected


def test_one_connection_is_kept_and_replaced_when_it_is_gone(triton):
    for _ in range(3):
        triton.get("/", 5.0)
    assert Answers.connections == 1
    for connection in triton._connections.values():
        connection.sock.shutdown(2)
    triton.get("/", 5.0)
    assert Answers.connections == 2


def test_a_server_that_has_ended_is_gone():
    port = free_port()
    with pytest.raises(GoneError, match=f"no answer from 127.0.0.1:{port}: Connection"):
        TritonHttp(f"http://127.0.0.1:{port}", "key").get("/", 5.0)
