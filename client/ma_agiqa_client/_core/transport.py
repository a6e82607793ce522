"""What a scorer needs of a connection; the gRPC implementations are in `_wire`.

A call ends within its `timeout_s` seconds. A failed call raises
`tritonclient.utils.InferenceServerException` with the gRPC status.
"""

from typing import Any, Protocol

from ma_agiqa_client._core.protocol import InferRequest, Result


class PendingResult(Protocol):
    """An inference in flight."""

    def result(self) -> Result:
        """Wait for the answer; raises what the call raised."""

    def cancel(self) -> None:
        """Cancel the call: `result` raises. Does nothing once it is answered."""


class Transport(Protocol):
    """What a `Scorer` needs of a connection. Every method may be called from any thread."""

    def infer(self, request: InferRequest, timeout_s: float) -> PendingResult:
        """Send an image to the ensemble."""

    def model_config(self, timeout_s: float) -> Any:
        """Return the ensemble's configuration, the protobuf `ModelConfig`."""

    def model_ready(self, timeout_s: float) -> bool:
        """Return whether the ensemble and all its models are loaded."""

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""


class AsyncTransport(Protocol):
    """What an `AsyncScorer` needs of a connection. A call is cancelled along with its task."""

    async def infer(self, request: InferRequest, timeout_s: float) -> Result:
        """Send an image to the ensemble and wait for the answer."""

    async def model_config(self, timeout_s: float) -> Any:
        """Return the ensemble's configuration, the protobuf `ModelConfig`."""

    async def model_ready(self, timeout_s: float) -> bool:
        """Return whether the ensemble and all its models are loaded."""

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
