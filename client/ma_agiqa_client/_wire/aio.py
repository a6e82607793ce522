"""How calls reach a server from an event loop: Triton's gRPC client for asyncio."""

from collections.abc import Callable
from typing import Any

import tritonclient.grpc.aio

from ma_agiqa_client._core.protocol import InferRequest, Result, model_name
from ma_agiqa_client.connection import Connection, check_url


class AsyncGrpcTransport:
    """One gRPC channel, kept open. It belongs to the event loop of its first call."""

    def __init__(self, url: str, connection: Connection) -> None:
        """Check the arguments; the channel is made at the first call, on the loop of that call.

        Raises:
            ValueError: `url` is not an address for gRPC, or a certificate cannot be read.
        """
        self._url = check_url(url)
        self._connection = connection
        self._model = model_name(connection.version)
        self._credentials = connection.tls.credentials() if connection.tls else None
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
        """Return the ensemble's configuration, the protobuf `ModelConfig`."""
        return (await self._call(self._client().get_model_config, timeout_s)).config

    async def model_ready(self, timeout_s: float) -> bool:
        """Return whether the ensemble and all its models are loaded."""
        return bool(await self._call(self._client().is_model_ready, timeout_s))

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
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

    async def _call(self, method: Callable[..., Any], timeout_s: float) -> Any:
        headers = self._connection.headers()
        return await method(self._model, headers=headers, client_timeout=timeout_s)
