"""mPLUG-Owl2 on a Triton server, as the embedder of features."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from ma_agiqa.data.features.embedders import Embeddings
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.lmm.identity import EmbedderIdentity

_MODEL, _VIEW = "mplug_owl2", "SEMANTIC_VIEW"
_OUTPUTS = {"semantic": "SEMANTIC", "coherence": "COHERENCE"}
_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S = 10.0, 600.0
_MAX_MESSAGE_BYTES = 2**31 - 1
_LOOPBACK = ("localhost:", "127.", "[::1]:")


class ServedEmbedder:
    """The served model `mplug_owl2`."""

    in_flight = 4  # batches: one is computed while others are queued, sent or received

    def __init__(self, url: str) -> None:
        """Connect, and ask what is served.

        Args:
            url: HOST:PORT of the server's gRPC port.

        Raises:
            ConfigError: no server answers there, or it serves something else.
        """
        if not url or "://" in url:
            raise ConfigError(
                f"The address is {url!r}; expected HOST:PORT, such as localhost:8001."
            )
        self._url = url
        self._client = InferenceServerClient(url, channel_args=channel_args(url))
        try:
            config = self._served_config()
            shapes = {t.name: tuple(t.dims) for t in (*config.input, *config.output)}
            self.image_size, self.hidden_size = self._sizes(shapes)
        except ConfigError:
            self._client.close()
            raise
        self.max_batch_size: int | None = config.max_batch_size
        stated = {name: value.string_value for name, value in config.parameters.items()}
        source, dtype = stated.get("embedder", "unknown"), stated.get("dtype")
        self.identity = EmbedderIdentity(source, dtype, stated.get("weights_sha256"))

    def __call__(self, views: NDArray[np.uint8]) -> Embeddings:
        """Embed views uint8 (B, S, S, 3), RGB.

        Raises:
            DataError: the server fails or does not answer.
        """
        tensor = InferInput(_VIEW, list(views.shape), "UINT8")
        tensor.set_data_from_numpy(views)
        outputs = [InferRequestedOutput(name) for name in _OUTPUTS.values()]
        try:
            result = self._client.infer(
                _MODEL, [tensor], outputs=outputs, client_timeout=_ANSWER_TIMEOUT_S
            )
        except InferenceServerException as error:
            raise DataError(
                f"The server at {self._url} failed: {error}. Finished features are kept: run the "
                "same command again to continue."
            ) from error
        return {name: result.as_numpy(served) for name, served in _OUTPUTS.items()}

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

    def _sizes(self, shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
        """Side of the view and width of an embedding."""
        side, width = (shapes.get(n, (0,))[0] for n in (_VIEW, _OUTPUTS["semantic"]))
        expected = {_VIEW: (side, side, 3), **dict.fromkeys(_OUTPUTS.values(), (width,))}
        if side < 1 or width < 1 or any(shapes.get(n) != shape for n, shape in expected.items()):
            raise ConfigError(
                f"The model {_MODEL!r} at {self._url} has the tensors {shapes}; expected {_VIEW} "
                f"(S, S, 3) and {' and '.join(_OUTPUTS.values())} (D)."
            )
        return side, width


def channel_args(url: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to a Triton server, which replace all of its own.

    Args:
        url: HOST:PORT.
    """
    arguments = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ]
    if url.startswith(_LOOPBACK):
        arguments.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine
    return arguments
