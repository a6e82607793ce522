"""Requests that no client of ours would send, to a real server of their own.

Each ends as a score or as a typed error without a path or a traceback, and the server scores the
next image. What 2.51 does not withstand is closed or named in SECURITY.md.
"""

import http.client
import os
import shutil
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from embedded.server import EmbeddedTriton
from support.hostile_files import costly_files, mutated_file, png
from support.servers import SHIPPED, serving

ROOT = Path(__file__).resolve().parents[2]
GOOD = sorted((ROOT / "examples").glob("*.jpg"))[0].read_bytes()
FUZZ_CASES = int(os.environ.get("FUZZ_CASES", "1000")) // 10
MIB = 2**20
INSIDES = ("Traceback", ".py", ".cc", "site-packages", str(ROOT), "/tmp/")
TYPED = {"INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED", "UNIMPLEMENTED"}
SHAPE = (1, 112, 112, 3)  # of the demo's SEMANTIC_VIEW
VIEW = bytes(112 * 112 * 3)


@pytest.fixture(scope="module")
def hardened():
    """A server of these tests alone, because they may end it."""
    with serving(SHIPPED) as server:
        yield server


@pytest.fixture(scope="module")
def infer(hardened):
    """Sends a request; gives `score` or the name of the error's code."""
    unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    with grpc.insecure_channel(hardened.grpc_url, unlimited) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def send(message: service_pb2.ModelInferRequest) -> str:
            answer = stub.ModelInfer.future(message, timeout=120)
            if answer.exception() is None:
                return "score"
            assert answer.details()
            assert not [word for word in INSIDES if word in answer.details()], answer.details()
            return answer.code().name

        yield send


@pytest.fixture(autouse=True)
def the_server_goes_on(infer, hardened):
    yield
    assert infer(request()) == "score"
    hardened.check()


def elements(*images: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def request(
    raw: bytes | None = None,
    shape: tuple[int, ...] = (1, 1),
    datatype: str = "BYTES",
    tensor: str = "IMAGE",
    **fields: object,
) -> service_pb2.ModelInferRequest:
    """A request for the ensemble, by default a good one."""
    message = service_pb2.ModelInferRequest(**{"model_name": "ma_agiqa"} | fields)
    message.inputs.add(name=tensor, datatype=datatype, shape=shape)
    message.raw_input_contents.append(elements(GOOD) if raw is None else raw)
    return message


def with_parameter(name: str, kind: str, value: object) -> service_pb2.ModelInferRequest:
    message = request()
    setattr(message.parameters[name], kind, value)
    return message


def with_input_parameters(**values: object) -> service_pb2.ModelInferRequest:
    message = request()
    del message.raw_input_contents[:]
    for name, value in values.items():
        kind = "string_param" if isinstance(value, str) else "int64_param"
        setattr(message.inputs[0].parameters[name], kind, value)
    return message


def with_contents(**contents: object) -> service_pb2.ModelInferRequest:
    message = request()
    del message.raw_input_contents[:]
    for name, values in contents.items():
        getattr(message.inputs[0].contents, name).extend(values)
    return message


def with_prompt(*ids: int) -> service_pb2.ModelInferRequest:
    message = request(VIEW, SHAPE, "UINT8", "SEMANTIC_VIEW", model_name="mplug_owl2")
    message.inputs.add(name="PROMPT", datatype="INT32", shape=(1, len(ids)))
    message.raw_input_contents.append(np.array(ids, np.int32).tobytes())
    return message


def twice() -> service_pb2.ModelInferRequest:
    message = request()
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])
    return message


REFUSED = {
    "a length past the end": request(struct.pack("<I", 10**9) + b"abc"),
    "the largest length": request(b"\xff\xff\xff\xffabc"),
    "half a length": request(b"\1"),
    "no bytes": request(b""),
    "no tensor": with_contents(),
    "two elements for one": request(elements(GOOD, GOOD)),
    "one element for two": request(shape=(2, 1)),
    "more than a batch": request(elements(*[b"x"] * 33), (33, 1)),
    "a negative size": request(shape=(-1, 1)),
    "two negative sizes": request(shape=(-1, -1)),
    "no elements": request(b"", (0, 1)),
    "a product that overflows": request(shape=(2**62, 4)),
    "the largest sizes": request(shape=(2**63 - 1, 2**63 - 1)),
    "no sizes": request(shape=()),
    "a thousand sizes": request(shape=(1,) * 1000),
    **{f"data type {name!r}": request(datatype=name) for name in ("FP32", "UINT8", "", "X")},
    "an unknown tensor": request(tensor="X"),
    "a tensor twice": twice(),
    "an unknown output": request(outputs=[{"name": "X"}]),
    "an unknown model": request(model_name="../../etc/passwd"),
    "an unknown version": request(model_version="99"),
    "a version in words": request(model_version="latest"),
    "a negative priority": with_parameter("priority", "int64_param", -1),
    "a parameter of another type": with_parameter("sequence_start", "string_param", "x"),
    "a deadline long ago": with_parameter("deadline_unix_us", "int64_param", -(2**63)),
    "unknown shared memory": with_input_parameters(
        shared_memory_region="x", shared_memory_byte_size=2**60, shared_memory_offset=2**62
    ),
    "a negative size of shared memory": with_input_parameters(
        shared_memory_region="x", shared_memory_byte_size=-100
    ),
    "shared memory without a name": with_input_parameters(shared_memory_offset=-1),
    "numbers for bytes": with_contents(int_contents=[5]),
    "forty images for one": with_contents(bytes_contents=[GOOD] * 40),
    "too few pixels": request(VIEW[1:], SHAPE, "UINT8", "SEMANTIC_VIEW", model_name="mplug_owl2"),
    "pixels of another shape": request(
        VIEW, (1, 224, 56, 3), "UINT8", "SEMANTIC_VIEW", model_name="mplug_owl2"
    ),
    "a token out of range": with_prompt(10**9),
    "a negative token": with_prompt(-1),
    "no tokens": with_prompt(),
    "a hundred thousand tokens": with_prompt(*[0] * 100_000),
    "an image of 100 megapixels": request(elements(png(10_000, 10_000))),
    "an image of 100 MB": request(elements(bytes(100 * MIB))),
    **{name: request(elements(data)) for name, data in costly_files(20 * MIB).items()},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(infer, name):
    assert infer(REFUSED[name]) in TYPED


TOLERATED = {
    "an unknown parameter": with_parameter("unknown", "string_param", "x" * 1000),
    "a parameter with quotes": with_parameter("\"\\'{é", "string_param", '"\\'),
    "a deadline in words": with_parameter("deadline_unix_us", "string_param", "soon"),
    "a negative timeout": with_parameter("timeout", "int64_param", -5),
    "an output five times": request(outputs=[{"name": "SCORE"}] * 5),
    "a tensor too many": request(raw_input_contents=[elements(GOOD)]),
    "a request id of 1 MB": request(id="x" * MIB),
    "a size that is 0 in 32 bits": request(shape=(2**40, 1)),
}


@pytest.mark.parametrize("name", TOLERATED)
def test_what_does_no_harm_may_pass(infer, name):
    assert infer(TOLERATED[name]) in {"score", *TYPED}


def test_mutated_files_end_as_a_score_or_as_an_invalid_argument(infer, record_property):
    files = [mutated_file(seed) for seed in range(FUZZ_CASES)]
    with ThreadPoolExecutor(4) as pool:  # within the queues
        outcomes = Counter(pool.map(lambda data: infer(request(elements(data))), files))
    record_property("outcomes", str(outcomes))
    print(f"{len(files)} files over gRPC: {dict(outcomes)}")
    assert set(outcomes) == {"score", "INVALID_ARGUMENT"}


def test_a_bomb_of_the_largest_side_is_scored(infer):
    assert infer(request(elements(png(8192, 8192)))) == "score"


@pytest.mark.slow
def test_a_message_of_1_gb_is_refused(infer):
    shared, memory = shutil.disk_usage("/dev/shm").free, psutil.virtual_memory().available
    if shared < 3 * 2**30 or memory < 10 * 2**30:
        pytest.skip("needs 10 GB of memory, and 3 GB of them in /dev/shm")
    assert infer(request(elements(bytes(2**30)))) == "INVALID_ARGUMENT"


def over_http(server: EmbeddedTriton, path: str, body: object, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.ports.http, timeout=60)
    try:
        connection.request("POST", path, body, headers, encode_chunked=not isinstance(body, bytes))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/ma_agiqa/infer",
        "/v2/models/ma_agiqa/generate",
        "/v2/models/ma_agiqa/versions/1/infer",
        "/v2/repository/index",
        "/v2/repository/models/ma_agiqa/unload",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/cudasharedmemory/region/x/register",
        "/v2/trace/setting",
        "/v2/logging",
    ],
)
def test_http_refuses_what_would_end_the_server(hardened, path):
    status, answer = over_http(hardened, path, b"[" * 500_000)
    assert status == 403
    assert "restricted" in answer
    assert not [word for word in INSIDES if word in answer]


def test_http_refuses_a_body_in_many_chunks(hardened):
    chunks, path = (b"{" for _ in range(100_000)), "/v2/models/ma_agiqa/infer"
    headers = {"Transfer-Encoding": "chunked"}
    assert over_http(hardened, path, chunks, **headers)[0] == 403
