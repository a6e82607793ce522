"""What a plan of `plan.py` asks its scorer to do. Servers are identified by number."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ma_agiqa_client._core.protocol import InferRequest

_T = TypeVar("_T")


@dataclass(frozen=True)
class Encode:
    """Return the bytes of an image."""

    source: Any
    timeout_s: float


@dataclass(frozen=True)
class GetConfig:
    """Return the configuration of a server's ensemble."""

    server: int
    timeout_s: float


@dataclass(frozen=True)
class Infer:
    """Send an image to a server; return the answer."""

    server: int
    request: InferRequest
    timeout_s: float


@dataclass(frozen=True)
class GetReady:
    """Return whether a server's ensemble is ready."""

    server: int
    timeout_s: float


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


Operation: TypeAlias = Encode | GetConfig | Infer | GetReady | Sleep
Plan: TypeAlias = Generator[Operation, Any, _T]
