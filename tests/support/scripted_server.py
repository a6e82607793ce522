"""A server that speaks Triton's protocol over real gRPC, and whose answers a test decides.

The scorer's requests reach it over a loopback socket. How the real server answers is tested in
tests/served.
"""

import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import trustme
from PIL import Image
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from ma_agiqa_client import Gate
from support.example_card import ALIGNMENT, PARAMETERS

GATE = Gate(semantic=0.25, coherence=0.25, quality=0.5)
"""The gate of every scripted answer."""

Answer = Callable[[bytes, grpc.ServicerContext], float]
Check = Callable[[service_pb2.ModelInferRequest, grpc.ServicerContext], None]
Speak = Callable[[service_pb2.ModelInferRequest, grpc.ServicerContext], Iterator[str | Exception]]


class Tensors(dict[str, object]):
    """A result by the names of its outputs, which are float32."""

    def as_numpy(self, name: str) -> np.ndarray | None:
        return np.asarray(self[name], np.float32) if name in self else None


def read_number(image: bytes, context: grpc.ServicerContext) -> float:
    """The score of b"7" is 7; other bytes are refused as Triton's ensemble refuses them."""
    if not image.isdigit():
        message = "in ensemble 'ma_agiqa', Not a number. Send digits."
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
    return float(image)


def repeat(request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[str]:
    """Answer with the question, word by word."""
    for word in request.raw_input_contents[1][4:].decode().split():
        yield word
        yield ""


def brightness(image: bytes, context: grpc.ServicerContext) -> float:
    """The score of a picture is its brightness in percent; other bytes are refused."""
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return float(np.asarray(picture.convert("RGB")).mean()) / 2.55
    except OSError:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Not an image.")


def numbers(count: int) -> list[bytes]:
    """Images whose scores are 0, 1, 2, ..."""
    return [str(number).encode() for number in range(count)]


def ensemble_config(
    parameters: dict[str, str],
    inputs: Iterable[str] = ("IMAGE",),
    outputs: Iterable[str] = ("SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT", "ALIGNMENT"),
) -> model_config_pb2.ModelConfig:
    """The ensemble's configuration with a card's parameters."""
    config = model_config_pb2.ModelConfig(name="ma_agiqa")
    for name in inputs:
        config.input.add(name=name)
    config.input.add(name="PROMPT_TEXT", optional=True)
    for name in outputs:
        config.output.add(name=name)
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    return config


def after_a_moment(answer):
    """The same answers, each so late that requests which are sent at once overlap."""

    def late(image, context):
        time.sleep(0.02)
        return answer(image, context)

    return late


class ScriptedServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Counts what it receives; `answer`, `speak`, `check`, `card` and `cards` may be replaced."""

    def __init__(self, certificate: trustme.LeafCert | None = None) -> None:
        """Listen, encrypted if there is a certificate.

        `answer` gives the score of an image. `speak` streams the answer to a question: pieces of
        text, or an exception whose sentence is sent as Triton's own error. An alignment is a
        hundredth of the prompt's length.
        """
        self.answer: Answer = read_number
        self.speak: Speak = repeat
        self.card = PARAMETERS | {"alignment": ALIGNMENT}
        self.cards: dict[str, dict[str, str] | None] = {}  # of other models; None: not served
        self.requests: list[service_pb2.ModelInferRequest] = []
        self.card_requests = 0
        self.peers: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.check: Check = lambda request, context: None
        self.in_flight = 0
        self.most_in_flight = 0
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(64))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        if certificate:
            key = certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes()
            credentials = grpc.ssl_server_credentials([key])
            self.url = f"localhost:{self._server.add_secure_port('localhost:0', credentials)}"
        else:
            self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    def __enter__(self) -> "ScriptedServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=request.name == "ma_agiqa")

    def ModelConfig(self, request, context):
        self.card_requests += 1
        config = ensemble_config(self._find(request.name, context))
        return service_pb2.ModelConfigResponse(config=config)

    def _find(self, model, context):
        card = self.cards.get(model, self.card)
        if card is None:
            message = f"Request for unknown model: '{model}' is not found"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        return card

    def ModelInfer(self, request, context):
        self._find(request.model_name, context)
        with self._lock:
            self._note(request, context)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self.check(request, context)
            mos = self.answer(request.raw_input_contents[0][4:], context)
        finally:
            with self._lock:
                self.in_flight -= 1
        maps = np.full((1, 14, 14), 0.5)
        arrays = {"SCORE": [[mos]], "GATE": [[-1, 1, 2]], "PATCH_SCORE": maps, "PATCH_WEIGHT": maps}
        if len(request.inputs) > 1:
            arrays["ALIGNMENT"] = [[len(request.raw_input_contents[1][4:].decode()) / 100]]
        response = service_pb2.ModelInferResponse(model_name="ma_agiqa")
        for output in request.outputs:
            array = np.asarray(arrays[output.name], np.float32)
            response.outputs.add(name=output.name, datatype="FP32", shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response

    def ModelStreamInfer(self, request_iterator, context):
        for request in request_iterator:
            self._note(request, context)
            for text in self.speak(request, context):
                response = service_pb2.ModelStreamInferResponse()
                if isinstance(text, Exception):
                    response.error_message = str(text)
                    yield response
                    break
                data = text.encode()
                response.infer_response.outputs.add(name="TEXT", datatype="BYTES", shape=[1])
                size = len(data).to_bytes(4, "little")
                response.infer_response.raw_output_contents.append(size + data)
                yield response

    def _note(self, request, context):
        self.requests.append(request)
        self.peers.add(context.peer())
        self.headers.append({k: str(v) for k, v in context.invocation_metadata()})
