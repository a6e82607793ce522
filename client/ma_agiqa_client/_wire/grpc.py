"""How calls reach a server: an interface, and gRPC."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from ma_agiqa_client._core.protocol import InferRequest, Result, model_name
from ma_agiqa_client.connection import Connection, check_url

__all__ = ["GrpcTransport", "PendingResult", "Transport", "check_url"]


class PendingResult(Protocol):
    """An inference under way."""

    def result(self) -> Result:
        """Wait for the answer; raises what the call raised."""

    def cancel(self) -> None:
        """Give it up: `result` raises. Does nothing once it is answered."""


class Transport(Protocol):
    """What a `Scorer` needs of a connection. Every method may be called from any thread.

    Each call ends within `timeout_s` seconds; a failed one raises
    `tritonclient.utils.InferenceServerException` with the gRPC status.
    """

    def infer(self, request: InferRequest, timeout_s: float) -> PendingResult:
        """Send an image to the ensemble."""

    def model_config(self, timeout_s: float) -> Any:
        """The ensemble's configuration, the protobuf `ModelConfig`."""

    def model_ready(self, timeout_s: float) -> bool:
        """Whether the ensemble and every model it is made of is loaded."""

    def register_memory(self, name: str, byte_size: int, timeout_s: float) -> None:
        """Have the server map a region of /dev/shm."""

    def unregister_memory(self, name: str, timeout_s: float) -> None:
        """Have the server give that region up."""

    def close(self) -> None:
        """Give the connection up; calls under way are cancelled."""


class GrpcTransport:
    """One gRPC channel, kept: Triton's client leaks when one is made per call."""

    def __init__(self, url: str, connection: Connection | None = None) -> None:
        """Prepare the channel; it connects at the first call.

        Raises:
            ValueError: `url` is not an address for gRPC, or a certificate cannot be read.
        """
        self._connection = connection or Connection()
        self._model = model_name(self._connection.version)
        tls = self._connection.tls
        self._client = InferenceServerClient(
            check_url(url),
            creds=tls.credentials() if tls else None,
            channel_args=self._connection.channel_args(url),
        )

    def infer(self, request: InferRequest, timeout_s: float) -> PendingResult:
        """Send an image to the ensemble."""
        pending = _Pending()
        pending.call = self._client.async_infer(
            self._model,
            request.inputs,
            pending.finish,
            outputs=request.outputs,
            request_id=request.request_id,
            parameters=request.parameters,
            client_timeout=timeout_s,
            headers=self._connection.headers(),
            compression_algorithm=self._connection.compression,
        )
        return pending

    def model_config(self, timeout_s: float) -> Any:
        """The ensemble's configuration, the protobuf `ModelConfig`."""
        return self._call(self._client.get_model_config, self._model, timeout_s=timeout_s).config

    def model_ready(self, timeout_s: float) -> bool:
        """Whether the ensemble and every model it is made of is loaded."""
        return bool(self._call(self._client.is_model_ready, self._model, timeout_s=timeout_s))

    def register_memory(self, name: str, byte_size: int, timeout_s: float) -> None:
        """Have the server map a region of /dev/shm."""
        register = self._client.register_system_shared_memory
        self._call(register, name, f"/{name}", byte_size, timeout_s=timeout_s)

    def unregister_memory(self, name: str, timeout_s: float) -> None:
        """Have the server give that region up."""
        self._call(self._client.unregister_system_shared_memory, name, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._client.close()

    def _call(self, method: Callable[..., Any], *arguments: Any, timeout_s: float) -> Any:
        headers = self._connection.headers()
        return method(*arguments, headers=headers, client_timeout=timeout_s)


class _Pending:
    """A call of Triton's client, which answers on a thread of gRPC, as something to wait for."""

    def __init__(self) -> None:
        self._answer: Future[Result] = Future()
        self.call: Any = None

    def finish(self, result: Result | None, error: InferenceServerException | None) -> None:
        if error is not None:
            self._answer.set_exception(error)
        elif result is not None:
            self._answer.set_result(result)

    def result(self) -> Result:
        return self._answer.result()

    def cancel(self) -> None:
        self.call.cancel()
