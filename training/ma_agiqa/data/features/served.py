"""mPLUG-Owl2 behind a Triton server, as the embedder of features."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from ma_agiqa.errors import ConfigError, DataError, MAAGIQAError
from ma_agiqa.data.features.embedders import Embeddings
from ma_agiqa.data.features.identity import describe_embedder

__all__ = ["ServedEmbedder"]

_MODEL, _VIEW = "mplug_owl2", "SEMANTIC_VIEW"
_OUTPUTS = {"semantic": "SEMANTIC", "coherence": "COHERENCE"}
_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S = 10.0, 600.0
_MAX_MESSAGE_BYTES = 2**31 - 1
_LOOPBACK = ("localhost:", "127.", "[::1]:")


class ServedEmbedder:
    """The served model `mplug_owl2`; several batches are on their way at once."""

    in_flight = 4  # one is computed while others are queued, sent or received

    def __init__(self, url: str) -> None:
        """Connect, and ask what is served.

        Args:
            url: HOST:PORT of the server's gRPC port.

        Raises:
            ConfigError: nothing answers there, or it serves something else.
        """
        if not url or "://" in url:
            raise ConfigError(
                f"The address is {url!r}; expected HOST:PORT, such as localhost:8001."
            )
        self._url = url
        self._client = InferenceServerClient(url, channel_args=_channel_args(url))
        try:
            config = self._served_config()
            self.max_batch_size: int | None = config.max_batch_size
            self.image_size, self._hidden_size = self._sizes(config)
        except MAAGIQAError:
            self._client.close()
            raise
        self._parameters = {k: v.string_value for k, v in config.parameters.items()}

    def identity(self) -> dict[str, Any]:
        """Its identity, as the served configuration states it."""
        return describe_embedder(
            self._parameters.get("weights", "unknown"),
            self._parameters.get("dtype", "unknown"),
            self.image_size,
            self._hidden_size,
            self._parameters.get("weights_sha256"),
        )

    def submit(self, views: NDArray[np.uint8]) -> "Future[Embeddings]":
        """Embed views uint8 (B, S, S, 3), RGB; returns at once."""
        tensor = InferInput(_VIEW, list(views.shape), "UINT8")
        tensor.set_data_from_numpy(views)
        future: Future[Embeddings] = Future()
        self._client.async_infer(
            _MODEL,
            [tensor],
            lambda result, error: self._settle(future, result, error),
            outputs=[InferRequestedOutput(name) for name in _OUTPUTS.values()],
            client_timeout=_ANSWER_TIMEOUT_S,
        )
        return future

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _served_config(self) -> Any:
        try:
            return self._client.get_model_config(_MODEL, client_timeout=_CONNECT_TIMEOUT_S).config
        except InferenceServerException as error:
            if error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
                raise ConfigError(
                    f"No Triton server answers at {self._url}: {error.message()}. Start one, such "
                    "as `python deploy/serve.py`, or leave --url out to compute in this process."
                ) from error
            raise ConfigError(
                f"The server at {self._url} does not serve the model {_MODEL!r}: "
                f"{error.message()}. Give the gRPC port of a server of this repository."
            ) from error

    def _sizes(self, config: Any) -> tuple[int, int]:
        """Side of the view and width of an embedding."""
        inputs, outputs = (
            {tensor.name: tuple(tensor.dims) for tensor in tensors}
            for tensors in (config.input, config.output)
        )
        try:
            side, _, _ = view = inputs[_VIEW]
            widths = {outputs[name] for name in _OUTPUTS.values()}
            ((width,),) = widths
        except (KeyError, ValueError) as error:
            raise self._another(inputs, outputs) from error
        if view != (side, side, 3) or side < 1 or width < 1:
            raise self._another(inputs, outputs)
        return side, width

    def _another(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> ConfigError:
        return ConfigError(
            f"The server at {self._url} serves another {_MODEL!r}: inputs {inputs}, outputs "
            f"{outputs}; expected {_VIEW} (S, S, 3) to {' and '.join(_OUTPUTS.values())} (D)."
        )

    def _settle(
        self, future: "Future[Embeddings]", result: InferResult | None, error: Exception | None
    ) -> None:
        if result is None:
            failure = DataError(
                f"The server at {self._url} failed: {error}. What was done is kept: run the same "
                "command again to go on."
            )
            failure.__cause__ = error
            future.set_exception(failure)
        else:
            future.set_result({n: result.as_numpy(served) for n, served in _OUTPUTS.items()})


def _channel_args(url: str) -> list[tuple[str, int]]:
    """The whole list: what is given here replaces Triton's own, message sizes included."""
    arguments = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ]
    if url.startswith(_LOOPBACK):
        arguments.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine
    return arguments
