"""How calls reach a server from an event loop: the same interface, and gRPC's asyncio client."""

from typing import Any, Protocol

import tritonclient.grpc.aio  # type: ignore[import-untyped]

from ma_agiqa_client._core.protocol import InferRequest, Result, model_name
from ma_agiqa_client.connection import Connection, check_url

__all__ = ["AsyncGrpcTransport", "AsyncTransport"]


class AsyncTransport(Protocol):
    """What an `AsyncScorer` needs of a connection.

    Each call ends within `timeout_s` seconds, and is given up when its task is cancelled; a failed
    one raises `tritonclient.utils.InferenceServerException` with the gRPC status.
    """

    async def infer(self, request: InferRequest, timeout_s: float) -> Result:
        """Send an image to the ensemble and wait for the answer."""

    async def model_config(self, timeout_s: float) -> Any:
        """The ensemble's configuration, the protobuf `ModelConfig`."""

    async def model_ready(self, timeout_s: float) -> bool:
        """Whether the ensemble and every model it is made of is loaded."""

    async def register_memory(self, name: str, byte_size: int, timeout_s: float) -> None:
        """Have the server map a region of /dev/shm."""

    async def unregister_memory(self, name: str, timeout_s: float) -> None:
        """Have the server give that region up."""

    async def close(self) -> None:
        """Give the connection up; calls under way are cancelled."""


class AsyncGrpcTransport:
    """One gRPC channel, kept. It belongs to the event loop of its first call."""

    def __init__(self, url: str, connection: Connection | None = None) -> None:
        """Check what is given; the channel is made at the first call, on the loop of that call.

        Raises:
            ValueError: `url` is not an address for gRPC, or a certificate cannot be read.
        """
        self._url = check_url(url)
        self._connection = connection or Connection()
        self._model = model_name(self._connection.version)
        tls = self._connection.tls
        self._credentials = tls.credentials() if tls else None
        self._made: Any = None

    async def infer(self, request: InferRequest, timeout_s: float) -> Result:
        """Send an image to the ensemble and wait for the answer."""
        result: Result = await self._client().infer(
            self._model,
            request.inputs,
            outputs=request.outputs,
            request_id=request.request_id,
            parameters=request.parameters,
            client_timeout=timeout_s,
            headers=self._connection.headers(),
            compression_algorithm=self._connection.compression,
        )
        return result

    async def model_config(self, timeout_s: float) -> Any:
        """The ensemble's configuration, the protobuf `ModelConfig`."""
        call = self._client().get_model_config
        return (await call(self._model, **self._options(timeout_s))).config

    async def model_ready(self, timeout_s: float) -> bool:
        """Whether the ensemble and every model it is made of is loaded."""
        return bool(await self._client().is_model_ready(self._model, **self._options(timeout_s)))

    async def register_memory(self, name: str, byte_size: int, timeout_s: float) -> None:
        """Have the server map a region of /dev/shm."""
        call = self._client().register_system_shared_memory
        await call(name, f"/{name}", byte_size, **self._options(timeout_s))

    async def unregister_memory(self, name: str, timeout_s: float) -> None:
        """Have the server give that region up."""
        call = self._client().unregister_system_shared_memory
        await call(name, **self._options(timeout_s))

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        if self._made:
            await self._made.close()

    def _client(self) -> Any:
        if self._made is None:
            self._made = tritonclient.grpc.aio.InferenceServerClient(
                self._url,
                creds=self._credentials,
                channel_args=self._connection.channel_args(self._url),
            )
        return self._made

    def _options(self, timeout_s: float) -> dict[str, Any]:
        return {"headers": self._connection.headers(), "client_timeout": timeout_s}
