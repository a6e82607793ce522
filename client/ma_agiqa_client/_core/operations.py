"""What a plan of `_core.py` asks to be done, one thing at a time. Servers are named by number."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ma_agiqa_client._core.protocol import InferRequest
from ma_agiqa_client._wire.images import ImageLike

__all__ = [
    "Encode",
    "GetConfig",
    "GetReady",
    "Infer",
    "Operation",
    "Plan",
    "Register",
    "Sleep",
    "Unregister",
]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Encode:
    """Give the bytes of an image."""

    source: ImageLike
    timeout_s: float


@dataclass(frozen=True)
class Infer:
    """Send an image to a server; give the answer."""

    server: int
    request: InferRequest
    timeout_s: float


@dataclass(frozen=True)
class GetConfig:
    """Give the configuration of a server's ensemble."""

    server: int
    timeout_s: float


@dataclass(frozen=True)
class GetReady:
    """Say whether a server's ensemble is ready."""

    server: int
    timeout_s: float


@dataclass(frozen=True)
class Register:
    """Have a server map shared memory."""

    server: int
    name: str
    byte_size: int
    timeout_s: float


@dataclass(frozen=True)
class Unregister:
    """Have a server give up shared memory."""

    server: int
    name: str
    timeout_s: float


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


Operation: TypeAlias = Encode | Infer | GetConfig | GetReady | Register | Unregister | Sleep
Plan: TypeAlias = Generator[Operation, Any, _T]
