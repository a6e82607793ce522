"""Traces of the running server, taken by a collector of the test."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import tritonclient.grpc

from embedded.server import Tracing
from support.servers import serving
from support.triton_requests import image_tensor
from support.waiting import settled

IMAGE = (Path(__file__).resolve().parents[2] / "examples" / "coffee_blur.jpg").read_bytes()
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
STEPS = {"preprocess", "mplug_owl2", "maniqa_moe", "meter", "ma_agiqa"}


class Collector(HTTPServer):
    """Keeps the bodies of OTLP requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def has(self, trace: str, step: str) -> bool:
        """Whether a span of the trace names the step."""
        wanted = bytes.fromhex(trace), trace.encode()  # protobuf or JSON
        return any(
            step.encode() in body and any(name in body for name in wanted) for body in self.bodies
        )


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_step_of_a_request_is_in_the_callers_trace(collector, stand_in_repository):
    headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
    with (
        serving(stand_in_repository, tracing=Tracing(collector.url)) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        client.infer("ma_agiqa", [image_tensor(IMAGE)], headers=headers, client_timeout=60)
        seen = settled(
            lambda: {step for step in STEPS if collector.has(TRACE_ID, step)},
            lambda seen: seen == STEPS,
        )
    assert seen == STEPS
    assert any(b"ma-agiqa" in body for body in collector.bodies)
