"""Has running servers load models, over Triton's model-control API.

Servers close that API to everyone without a key: `deploy/serve.py` generates one at each start and
keeps it in a file that only its user can read.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import torch
from google.protobuf import json_format
from torch import Tensor
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from exporter.golden import Golden, compare
from exporter.versions import EMBEDDER
from ma_agiqa.data.features.served import channel_args
from ma_agiqa.errors import CheckpointError, ConfigError

KEY_VARIABLE = "MA_AGIQA_ADMIN_KEY"
_KEY_HEADER = "triton-grpc-protocol-admin-key"
_TOKEN_HEADERS = ("authorization", "triton-grpc-protocol-authorization")
_LOGS = Path(__file__).resolve().parents[2] / "logs"
_EMBEDDINGS = ("SEMANTIC", "COHERENCE")
_TIMEOUT_S = 1800.0
"""For one load; the paper's scorer reads 0.7 GB."""


def read_key(url: str, key_file: Path | None) -> str:
    """Find the key of a server: in a file, in the environment, or where `serve.py` put it.

    Args:
        url: HOST:PORT of the server.
        key_file: the file, or None.

    Returns:
        The key; empty where none is found, as a server may be open.

    Raises:
        ConfigError: the file cannot be read.
    """
    if key_file is None and KEY_VARIABLE in os.environ:
        return os.environ[KEY_VARIABLE]
    path = key_file or _LOGS / f"serve-{url.rpartition(':')[2]}.key"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        if key_file is None:
            return ""
        raise ConfigError(
            f"There is no key file {path}. Give the one that the server wrote next to its log."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The key file {path} cannot be read: {error}.") from error


def read_credentials(
    ca: Path | None, certificate: Path | None, private_key: Path | None
) -> grpc.ChannelCredentials | None:
    """Read the PEM files of an encrypted connection; None if there are none.

    Raises:
        ConfigError: a certificate lacks its key.
    """
    if ca is certificate is private_key is None:
        return None
    if (certificate is None) != (private_key is None):
        raise ConfigError("Only one of --tls-cert and --tls-key was given: give both.")
    pems = [file and file.read_bytes() for file in (ca, private_key, certificate)]
    return grpc.ssl_channel_credentials(*pems)


class ModelControl:
    """One server whose models may be changed."""

    def __init__(
        self,
        url: str,
        key: str,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            url: HOST:PORT.
            key: the administrator's; empty for a server that is open.
            token: bearer token, for a server that asks one of every client.
            credentials: encrypt the connection, such as `read_credentials` gives.
        """
        self.url = url
        self._client = InferenceServerClient(url, creds=credentials, channel_args=channel_args(url))
        self._headers = {_KEY_HEADER: key} if key else {}
        if token:
            self._headers |= dict.fromkeys(_TOKEN_HEADERS, f"Bearer {token}")

    def load(self, model: str, config: ModelConfig | None = None) -> None:
        """Load a model, or what is new of it, and wait until it is ready.

        Args:
            model: its name.
            config: a configuration to use instead of the repository's; for a model that the
                repository does not have, the server then makes an empty version 1.

        Raises:
            CheckpointError: it does not load; what was served before still is.
            ConfigError: the server does not allow it.
        """
        options = {}
        if config is not None:
            options["config"] = json_format.MessageToJson(config, preserving_proto_field_name=True)
            if config.platform == "ensemble":
                options["files"] = {"file:1/empty": b""}
        with self._explained(f"load {model}"):
            self._client.load_model(
                model, headers=self._headers, client_timeout=_TIMEOUT_S, **options
            )

    def unload(self, model: str) -> None:
        """Unload a model; requests that have reached it are still answered.

        Raises:
            CheckpointError, ConfigError: as in `load`.
        """
        with self._explained(f"unload {model}"):
            self._client.unload_model(model, headers=self._headers, client_timeout=_TIMEOUT_S)

    def parameters(self, model: str) -> dict[str, str]:
        """The parameters in the configuration with which a model is loaded.

        Raises:
            CheckpointError: it is not loaded, or the server does not answer.
        """
        with self._explained(f"show the configuration of {model}"):
            config = self._client.get_model_config(
                model, headers=self._headers, client_timeout=_TIMEOUT_S
            ).config
        return {name: value.string_value for name, value in config.parameters.items()}

    def check(self, model: str, golden: Golden) -> float:
        """Send the golden images to an ensemble; return the largest difference.

        Raises:
            CheckpointError: it does not answer, or gives other scores than expected.
        """
        files = (np.array([[image]], dtype=np.object_) for image in golden.images)
        rows = [self.ask(model, "IMAGE", file, "SCORE", "GATE") for file in files]
        score, gate = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return compare(golden, (score, gate), f"{model} at {self.url}")

    def ask(self, model: str, name: str, array: np.ndarray, *outputs: str) -> list[np.ndarray]:
        """Send one array to a model's input `name`; return its outputs.

        Raises:
            CheckpointError: it does not answer, or lacks an output.
        """
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        with self._explained(f"compute {outputs[0]} with {model}"):
            result = self._client.infer(
                model, [tensor], headers=self._headers, client_timeout=_TIMEOUT_S
            )
        arrays = [result.as_numpy(output) for output in outputs]
        if any(array is None or array.size == 0 for array in arrays):
            raise CheckpointError(
                f"The server's answer lacks {' or '.join(outputs)}. Look for the reason in its log."
            )
        return arrays

    def __enter__(self) -> "ModelControl":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            reason = (error.message() or "no reason given").split("\n")[0].rstrip(".")
            if "protocol is restricted" in reason:
                raise ConfigError(
                    f"The server at {self.url} requires its administrator key to change models: "
                    "give the file that holds it with --admin-key-file (deploy/serve.py writes it "
                    f"next to its log), or set {KEY_VARIABLE}."
                ) from error
            raise CheckpointError(f"The server at {self.url} did not {what}: {reason}.") from error


@dataclass(frozen=True)
class ServedEmbedder:
    """The embedder of a running server, called as `ma_agiqa.lmm.embedder.PromptEmbedder` is.

    Attributes:
        server: runs `mplug_owl2`.
        image_size: side of the view that it takes, in pixels.
    """

    server: ModelControl
    image_size: int

    def __call__(self, views: Tensor) -> dict[str, Tensor]:
        """Embed views, uint8 (N, side, side, 3), one at a time; raises `CheckpointError`."""
        rows = [
            self.server.ask(EMBEDDER, "SEMANTIC_VIEW", v[None], *_EMBEDDINGS) for v in views.numpy()
        ]
        return {
            name.lower(): torch.from_numpy(np.concatenate(parts))
            for name, parts in zip(_EMBEDDINGS, zip(*rows, strict=True), strict=True)
        }
