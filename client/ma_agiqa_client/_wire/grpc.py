"""How calls reach a server from threads: Triton's gRPC client."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ma_agiqa_client._core.protocol import InferRequest, Result, model_name
from ma_agiqa_client._core.transport import PendingResult
from ma_agiqa_client.connection import Connection, check_url


class GrpcTransport:
    """One gRPC channel, kept open: Triton's client leaks memory if one is made for each call."""

    def __init__(self, url: str, connection: Connection) -> None:
        """Prepare the channel; it connects at the first call.

        Raises:
            ValueError: `url` is not an address for gRPC, or a certificate cannot be read.
        """
        self._connection = connection
        self._model = model_name(connection.version)
        self._client = InferenceServerClient(
            check_url(url),
            creds=connection.tls.credentials() if connection.tls else None,
            channel_args=connection.channel_args(url),
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
        """Return the ensemble's configuration, the protobuf `ModelConfig`."""
        return self._call(self._client.get_model_config, timeout_s).config

    def model_ready(self, timeout_s: float) -> bool:
        """Return whether the ensemble and all its models are loaded."""
        return bool(self._call(self._client.is_model_ready, timeout_s))

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._client.close()

    def _call(self, method: Callable[..., Any], timeout_s: float) -> Any:
        return method(self._model, headers=self._connection.headers(), client_timeout=timeout_s)


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
