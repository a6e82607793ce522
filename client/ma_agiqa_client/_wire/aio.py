"""How calls reach a server from event loops, by gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import grpc
from tritonclient.grpc import (
    InferResult,
    service_pb2,
    service_pb2_grpc,
)

from ma_agiqa_client._core.protocol import InferRequest, Result, model_name
from ma_agiqa_client._wire.grpc import GRACE_S, failures
from ma_agiqa_client.connection import Connection

_T = TypeVar("_T")


class PerLoop(Generic[_T]):
    """Something that belongs to an event loop, made for each loop that asks for it."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, _T] = {}

    def get(self) -> _T:
        """Return that of the running loop; those of closed loops are dropped."""
        for loop in [loop for loop in self._made if loop.is_closed()]:
            self._made.pop(loop, None)
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            self._made[loop] = self._make()
        return self._made[loop]

    def take(self) -> _T | None:
        """Remove and return that of the running loop, or return None if there is none."""
        return self._made.pop(asyncio.get_running_loop(), None)


class AsyncGrpcTransport:
    """A gRPC channel for each event loop, kept open."""

    def __init__(self, url: str, connection: Connection) -> None:
        """Check the arguments; channels are made at the first call of each loop.

        Raises:
            ValueError: a certificate cannot be read.
        """
        if connection.tls:
            connection.tls.credentials()
        self._url = url
        self._connection = connection
        self._model = model_name(connection.version)
        self._channels = PerLoop(self._open)

    async def infer(self, request: InferRequest, timeout_s: float) -> Result:
        """Send an image to the ensemble and wait for the answer."""
        message = await self._call("ModelInfer", request.message(self._model), timeout_s)
        result: Result = InferResult(message)
        return result

    async def model_config(self, timeout_s: float) -> Any:
        """Return the ensemble's configuration, the protobuf `ModelConfig`."""
        request = service_pb2.ModelConfigRequest(name=self._model)
        return (await self._call("ModelConfig", request, timeout_s)).config

    async def model_ready(self, timeout_s: float) -> bool:
        """Return whether the ensemble and all its models are loaded."""
        request = service_pb2.ModelReadyRequest(name=self._model)
        return bool((await self._call("ModelReady", request, timeout_s)).ready)

    @asynccontextmanager
    async def stream(self, request: Any, timeout_s: float) -> AsyncIterator[AsyncIterator[Any]]:
        """Ask for several answers; they end with the context."""
        with failures():
            stub, options = self._channels.get()[1], self._connection.call_options(timeout_s)
            answers = stub.ModelStreamInfer(iter([request]), **options)
            try:
                yield answers
            finally:
                answers.cancel()

    async def close(self) -> None:
        """Close the channel of the running loop; calls in flight are cancelled."""
        if made := self._channels.take():
            await made[0].close()

    async def _call(self, method: str, request: Any, timeout_s: float) -> Any:
        with failures():
            stub, options = self._channels.get()[1], self._connection.call_options(timeout_s)
            call = getattr(stub, method)(request, **options)
            return await asyncio.wait_for(call, min(timeout_s, 1e9) + GRACE_S)

    def _open(self) -> tuple[Any, Any]:
        channel = self._connection.open_channel(self._url, grpc.aio)
        return channel, service_pb2_grpc.GRPCInferenceServiceStub(channel)
