"""How a channel to a server is set up: address, TLS, headers, keepalive, compression."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

import grpc

__all__ = ["Compression", "Tls"]

Compression: TypeAlias = Literal["gzip", "deflate"]

_MAX_MESSAGE_BYTES = 2**31 - 1
_LOOPBACK = ("localhost:", "127.", "[::1]:", "unix:")
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

    def headers(self) -> dict[str, str]:
        """Return the headers of one call, with the trace context of the caller."""
        token = self.token() if callable(self.token) else self.token
        authorization = dict.fromkeys(_AUTHORIZATION, f"Bearer {token}") if token else {}
        return {**_trace_headers(), **(self.metadata or {}), **authorization}

    def channel_args(self, url: str) -> list[tuple[str, int | str]]:
        """Return all channel arguments; they replace those of Triton's client, sizes included."""
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


def check_urls(url: str | Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of one or several servers as a tuple, after checking each.

    Raises:
        ValueError: as in `check_url`, or there is no address, or one is given twice.
    """
    urls = (url,) if isinstance(url, str) else tuple(url)
    if not urls or len(set(urls)) < len(urls):
        raise ValueError(f"Got the addresses {list(urls)}; expected at least one, each only once.")
    return tuple(map(check_url, urls))


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine."""
    return url.rpartition("///")[2].startswith(_LOOPBACK) or url.startswith("unix:")


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
