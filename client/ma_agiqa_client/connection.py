"""How a channel to a server is set up: address, TLS, headers, keepalive, compression."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import grpc

__all__ = ["Compression", "Tls", "TrafficClass"]

Compression: TypeAlias = Literal["gzip", "deflate"]
TrafficClass: TypeAlias = Literal["interactive", "bulk"]

_MAX_MESSAGE_BYTES = 2**31 - 1
_COMPRESSION = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
_TARGET = re.compile(
    r"(?:dns:(?://[^/]*/)?|ipv[46]:)?"  # the schemes of gRPC
    r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s:/?#@,\[\]]+):(?P<port>[0-9]+)(?:,[^\s/?#@]+:[0-9]+)?"
)
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|0\.0\.0\.0|\[::1?\]", re.IGNORECASE)
_AUTHORIZATION = ("authorization", "triton-grpc-protocol-authorization")
"""One for proxies, one for Triton itself, which only looks at headers with this prefix."""

_HEADER = re.compile(r"[0-9a-z_.-]+")


@dataclass(frozen=True)
class Tls:
    """Encryption, and how each side proves its identity. All files are PEM.

    Attributes:
        root_certificates: certificates of the issuers to trust; by default the issuers that gRPC
            ships with.
        certificate_chain: this client's certificate, if the server asks for one (mutual TLS).
        private_key: the key of that certificate.
        server_name: the name in the server's certificate, if it differs from the address.
    """

    root_certificates: str | PathLike[str] | None = None
    certificate_chain: str | PathLike[str] | None = None
    private_key: str | PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError(
                "Tls has only one of certificate_chain and private_key; expected both or neither."
            )

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ValueError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_pem("root_certificates", self.root_certificates),
            private_key=_pem("private_key", self.private_key),
            certificate_chain=_pem("certificate_chain", self.certificate_chain),
        )


@dataclass(frozen=True)
class Connection:
    """The settings that all calls over a channel share.

    Attributes:
        tls: encrypt the channel; None leaves it readable.
        token: sent as `authorization: Bearer TOKEN`, and under the name that Triton itself looks
            at (`--grpc-restricted-protocol=...:authorization=Bearer TOKEN`). A function is called
            for every request, from any thread, so that a token can be renewed.
        metadata: additional headers of every call.
        compression: applied to what is sent; files are compressed already, raw pixels are not.
        keepalive_s: seconds without traffic after which the connection is tested; None disables it.
        version: the kept version of the model to ask for; None asks for the active one.
    """

    tls: Tls | None = None
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    metadata: Mapping[str, str] | None = field(default=None, repr=False)
    compression: Compression | None = None
    keepalive_s: float | None = None
    version: int | None = None

    def __post_init__(self) -> None:
        if self.compression not in (None, "gzip", "deflate"):
            raise ValueError(f"compression is {self.compression!r}; expected gzip or deflate.")
        if self.keepalive_s is not None and not self.keepalive_s > 0:
            raise ValueError(f"keepalive_s is {self.keepalive_s}; expected more than 0, or None.")
        if self.version is not None and self.version < 1:
            raise ValueError(f"version is {self.version}; expected at least 1, or None.")
        for name in self.metadata or ():
            if not _HEADER.fullmatch(name) or name.startswith("grpc-"):
                raise ValueError(
                    f"The header {name!r} cannot be sent; expected lower-case letters, digits, "
                    "'-', '_' and '.', and not 'grpc-' at the start."
                )

    def open_channel(self, url: str, grpc_module: Any) -> Any:
        """Make a channel of `grpc` or `grpc.aio`; it connects at the first call."""
        options = self._channel_args(url)
        if self.tls:
            return grpc_module.secure_channel(url, self.tls.credentials(), options=options)
        return grpc_module.insecure_channel(url, options=options)

    def call_options(self, timeout_s: float) -> dict[str, Any]:
        """Return the keyword arguments of one call of gRPC."""
        return {
            "timeout": max(timeout_s, 0.0),
            "metadata": tuple(self.headers().items()),
            "compression": _COMPRESSION[self.compression] if self.compression else None,
        }

    def headers(self) -> dict[str, str]:
        """Return the headers of one call, with the trace context of the caller."""
        token = self.token() if callable(self.token) else self.token
        authorization = dict.fromkeys(_AUTHORIZATION, f"Bearer {token}") if token else {}
        return {**_trace_headers(), **(self.metadata or {}), **authorization}

    def _channel_args(self, url: str) -> list[tuple[str, int | str]]:
        arguments: list[tuple[str, int | str]] = [
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),  # reconnect while calls are being retried
            ("grpc.min_reconnect_backoff_ms", 5_000),  # the longest a connection attempt may take
            ("grpc.max_reconnect_backoff_ms", 2_000),
            # Spread calls over every address a name has, and look for new ones after a failure.
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.dns_min_time_between_resolutions_ms", 2_000),
        ]
        if self.keepalive_s is not None:
            arguments += [
                ("grpc.keepalive_time_ms", round(self.keepalive_s * 1e3)),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        if self.tls and self.tls.server_name:
            arguments.append(("grpc.ssl_target_name_override", self.tls.server_name))
        if is_loopback(url):
            arguments.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine
        return arguments


def check_url(url: str) -> str:
    """Check an address for gRPC, such as `localhost:8001`, `dns:///host:8001` or `unix:/a/socket`.

    Returns:
        The address without blanks around it and without slashes at its end.

    Raises:
        ValueError: it is the address of another protocol, or lacks a valid port.
    """
    if url.strip().startswith("unix:"):
        return url.strip()
    target = url.strip().rstrip("/")
    found = _TARGET.fullmatch(target)
    if found and 1 <= int(found["port"][:6]) <= 65535:
        return target
    reason = f" The port {found['port']} is not in 1 to 65535." if found else ""
    host = target.rpartition("//")[2].partition(":")[0] or "localhost"
    raise ValueError(
        f"Got the address {url!r}; expected HOST:PORT of the server's gRPC port, such as "
        f"{host}:8001.{reason}"
    )


def check_urls(url: str | Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of one or several servers as a tuple, after checking each.

    Raises:
        ValueError: as in `check_url`, or there is no address, or one is given twice.
    """
    urls = tuple(map(check_url, (url,) if isinstance(url, str) else url))
    if not urls or len(set(urls)) < len(urls):
        raise ValueError(f"Got the addresses {list(urls)}; expected at least one, each only once.")
    return urls


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine."""
    found = _TARGET.fullmatch(url)
    return url.startswith("unix:") or bool(found and _LOOPBACK.fullmatch(found["host"]))


def proxy_advice(url: str) -> str:
    """Return a sentence about the proxy that calls to an address go through; empty if none does."""
    found = _TARGET.fullmatch(url)
    names = ("grpc_proxy", "https_proxy", "http_proxy")  # where gRPC looks, in this order
    proxy = next((name for name in names if os.environ.get(name)), None)
    if found is None or proxy is None or is_loopback(url):
        return ""
    direct = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy") or ""  # noqa: SIM112
    if any(part.strip() and found["host"].endswith(part.strip()) for part in direct.split(",")):
        return ""
    return (
        f" Calls go through the proxy that the environment variable {proxy} names; if it cannot "
        f"reach the server, set no_proxy={found['host']}."
    )


def _pem(name: str, path: str | PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"The file {str(path)!r} given as {name} cannot be read: {error.strerror}."
        ) from error


def _trace_headers() -> dict[str, str]:
    """Return the headers of the caller's span, such as `traceparent`; {} without OpenTelemetry."""
    inject = _opentelemetry_inject()
    carrier: dict[str, str] = {}
    if inject:
        inject(carrier)
    return carrier


@lru_cache(maxsize=1)
def _opentelemetry_inject() -> Callable[[dict[str, str]], None] | None:
    """Import OpenTelemetry at the first request: it takes as long as the rest of this package."""
    try:
        from opentelemetry.propagate import inject
    except ImportError:
        return None
    return inject
