"""A request for a score over gRPC, on a bare socket and as slowly as one likes."""

import contextlib
import socket
import struct
from collections.abc import Iterator

from tritonclient.grpc import service_pb2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4  # RFC 9113, section 6
ACK = END_STREAM = 1
END_HEADERS = 4
LONGEST_FRAME = 16384
STREAM = 1
FIELDS = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/inference.GRPCInferenceService/ModelInfer",
    ":authority": "localhost",
    "te": "trailers",
    "content-type": "application/grpc",
}


class SlowRequest:
    """One image of less than 64 kB, HTTP/2's first window; the message is sent piece by piece.

    Attributes:
        left: bytes of the message that have not been sent.
    """

    def __init__(self, url: str, image: bytes):
        host, port = url.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._message = _message(image)
        self._socket.sendall(PREFACE + _frame(SETTINGS, 0, 0))
        assert self._read()[0] == SETTINGS
        fields = b"".join(_field(name, value) for name, value in FIELDS.items())
        self._socket.sendall(
            _frame(SETTINGS, ACK, 0) + _frame(HEADERS, END_HEADERS, STREAM, fields)
        )

    @property
    def left(self) -> int:
        return len(self._message)

    def send(self, count: int) -> None:
        """Send this many more bytes; the last one ends the request."""
        while count:
            size = min(count, LONGEST_FRAME)
            part, self._message = self._message[:size], self._message[size:]
            end = 0 if self._message else END_STREAM
            self._socket.sendall(_frame(DATA, end, STREAM, part))
            count -= size

    def score(self) -> float:
        """Wait for the answer, and close."""
        with contextlib.closing(self._socket):
            answer = b"".join(self._answer())
        response = service_pb2.ModelInferResponse.FromString(answer[5:])
        names = [output.name for output in response.outputs]
        return struct.unpack("<f", response.raw_output_contents[names.index("SCORE")])[0]

    def _answer(self) -> Iterator[bytes]:
        kind, flags = None, 0
        while kind not in (DATA, HEADERS) or not flags & END_STREAM:
            kind, flags, stream, payload = self._read()
            if (kind, stream) == (DATA, STREAM):
                yield payload

    def _read(self) -> tuple[int, int, int, bytes]:
        """Kind, flags, stream and payload of the next frame."""
        head = self._receive(9)
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        return kind, flags, stream, self._receive(int.from_bytes(head[:3], "big"))

    def _receive(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            part = self._socket.recv(count - len(received))
            assert part, "the server closed the connection"
            received += part
        return received


def _message(image: bytes) -> bytes:
    """The request with gRPC's own prefix: not compressed, and the length."""
    request = service_pb2.ModelInferRequest(model_name="ma_agiqa")
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    request.outputs.add(name="SCORE")
    request.raw_input_contents.append(struct.pack("<I", len(image)) + image)
    body = request.SerializeToString()
    return struct.pack(">?I", False, len(body)) + body


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _field(name: str, value: str) -> bytes:
    """A header in HPACK's plainest form: a literal that is not indexed (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
