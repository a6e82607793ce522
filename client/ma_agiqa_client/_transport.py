"""How calls reach the server: an interface, and gRPC."""

from typing import Any, Protocol

from tritonclient.grpc import (  # type: ignore[import-untyped]
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
)

from ma_agiqa_client._protocol import MODEL_NAME, Result

__all__ = ["GrpcTransport", "Transport", "check_url"]

_MAX_MESSAGE_BYTES = 2**31 - 1
_LOOPBACK = ("localhost:", "127.", "[::1]:")


class Transport(Protocol):
    """What a scorer needs of a connection. Every method may be called from any thread.

    Each call ends within `timeout_s` seconds; a failed one raises
    `tritonclient.utils.InferenceServerException` with the gRPC status.
    """

    def infer(
        self, inputs: list[InferInput], outputs: list[InferRequestedOutput], timeout_s: float
    ) -> Result:
        """Run the ensemble on one image."""

    def model_config(self, timeout_s: float) -> Any:
        """The ensemble's configuration, the protobuf `ModelConfig`."""

    def model_ready(self, timeout_s: float) -> bool:
        """Whether the ensemble and every model it is made of is loaded."""

    def close(self) -> None:
        """Give the connection up; calls under way are cancelled."""


class GrpcTransport:
    """One gRPC channel, kept: Triton's client leaks when one is made per call."""

    def __init__(self, url: str) -> None:
        """Prepare the channel; it connects at the first call.

        Raises:
            ValueError: `url` is not an address for gRPC.
        """
        self._client = InferenceServerClient(check_url(url), channel_args=_channel_args(url))

    def infer(
        self, inputs: list[InferInput], outputs: list[InferRequestedOutput], timeout_s: float
    ) -> Result:
        """Run the ensemble on one image."""
        result: Result = self._client.infer(
            MODEL_NAME, inputs, outputs=outputs, client_timeout=timeout_s
        )
        return result

    def model_config(self, timeout_s: float) -> Any:
        """The ensemble's configuration, the protobuf `ModelConfig`."""
        return self._client.get_model_config(MODEL_NAME, client_timeout=timeout_s).config

    def model_ready(self, timeout_s: float) -> bool:
        """Whether the ensemble and every model it is made of is loaded."""
        return bool(self._client.is_model_ready(MODEL_NAME, client_timeout=timeout_s))

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._client.close()


def check_url(url: str) -> str:
    """Check that an address is one for gRPC, such as `localhost:8001` or `dns:///host:8001`.

    Raises:
        ValueError: it begins with the scheme of another protocol, or is empty.
    """
    scheme, separator, rest = url.partition("://")
    if not url or (separator and scheme in ("http", "https", "grpc", "grpcs")):
        raise ValueError(
            f"Got the address {url!r}; expected HOST:PORT of the server's gRPC port, "
            f"such as {rest.rstrip('/') if ':' in rest else 'localhost:8001'}."
        )
    return url


def _channel_args(url: str) -> list[tuple[str, int]]:
    """The whole list: what is given here replaces Triton's own, message sizes included."""
    arguments = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),  # reconnect sooner than the retries give up
        ("grpc.min_reconnect_backoff_ms", 5_000),  # the longest a connection attempt may take
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if url.startswith(_LOOPBACK):
        arguments.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine
    return arguments
