"""Who may connect to the server, and what they may ask of it.

    gRPC   scoring, metadata, health, statistics     everyone, or those who know the token
           shared memory, logging, traces            no one
           loading and unloading models              those who know the administrator's key
    HTTP   health, metadata, statistics              everyone; with a token, health only
           everything else, scoring included         only the program that started the server

HTTP does not score: 500 KB of nested JSON, or a million chunks of one byte, end tritonserver 2.51
(both measured). The clients of this repository use gRPC.
"""

import os
import re
import secrets
import ssl
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from embedded.errors import ServeError

CLOSED_HEADER = "closed"
"""The header that opens what is closed; its value is drawn at each start and not published."""

ADMIN_HEADER = "admin-key"
"""Opens the loading of models over gRPC; clients write it as triton-grpc-protocol-admin-key."""

_CLOSED = "shared-memory,logging,trace"
_OPEN = "metadata,model-config,statistics"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}")


@dataclass(frozen=True)
class Security:
    """Encryption and authentication; PEM files. The default is plain gRPC without a token.

    Attributes:
        certificate: certificate chain of the server; None serves without TLS.
        private_key: private key of that certificate.
        client_ca: issuers of the certificates that clients have to show (mTLS); None asks for none.
        token: bearer token that clients have to send; None asks for none.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    token: str | None = field(default=None, repr=False)

    @classmethod
    def read(
        cls,
        certificate: Path | None,
        private_key: Path | None,
        client_ca: Path | None,
        token_file: Path | None,
    ) -> "Security":
        """Take the options of the command line; check them and the files before anything starts.

        Raises:
            ServeError: a file cannot be read or is of another kind, or an option lacks another.
        """
        token = None if token_file is None else _read_token(token_file)
        security = cls(certificate, private_key, client_ca, token)
        security._check()
        return security

    @cached_property
    def closed_key(self) -> str:
        """The value of `CLOSED_HEADER`."""
        return secrets.token_hex(16)

    def options(self, admin_key: str) -> list[str]:
        """Options of tritonserver; `admin_key` is the value of `ADMIN_HEADER`."""
        closed = f"{CLOSED_HEADER}={self.closed_key}"
        guarded = f",{_OPEN}" if self.token else ""
        options = [
            f"--grpc-restricted-protocol={_CLOSED}:{closed}",
            f"--grpc-restricted-protocol=model-repository:{ADMIN_HEADER}={admin_key}",
            f"--http-restricted-api={_CLOSED},model-repository,inference{guarded}:{closed}",
        ]
        if self.token:
            # Clients send it as triton-grpc-protocol-authorization: Triton sets the beginning.
            header = f"authorization=Bearer {self.token}"
            options.append(f"--grpc-restricted-protocol=inference,{_OPEN}:{header}")
        if self.certificate and self.private_key:
            options += [
                f"--grpc-use-ssl{'-mutual' if self.client_ca else ''}=1",
                f"--grpc-server-cert={self.certificate.resolve()}",
                f"--grpc-server-key={self.private_key.resolve()}",
            ]
        if self.client_ca:
            options.append(f"--grpc-root-cert={self.client_ca.resolve()}")
        return options

    def _check(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise ServeError("Only one of --tls-cert and --tls-key is given: give both.")
        if self.client_ca and not self.certificate:
            raise ServeError("--tls-client-ca needs the server's own --tls-cert and --tls-key.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if self.certificate:
                context.load_cert_chain(self.certificate, self.private_key, password=_no_password)
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ServeError(
                f"The files of --tls-cert, --tls-key and --tls-client-ca cannot be used ({error}): "
                "give PEM files, and a key without a password that belongs to the certificate."
            ) from error


def write_key(path: Path, key: str) -> None:
    """Write a key where only this user can read it.

    Raises:
        ServeError: the file cannot be written.
    """
    try:
        path.unlink(missing_ok=True)  # it may be open elsewhere, or a link to somewhere else
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)
    except OSError as error:
        raise ServeError(
            f"The key file {path} cannot be written ({error.strerror}): name another folder with "
            "--log-file, or another file with --probe-key-file."
        ) from error


def read_key(path: Path | None) -> str:
    """A key that `write_key` wrote; empty without a file, as for a server that is not closed."""
    try:
        return path.read_text(encoding="ascii") if path else ""
    except (OSError, ValueError):
        return ""


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _read_token(file: Path) -> str:
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ServeError(f"The file {file} of --token-file cannot be read: {error}.") from error
    if not _TOKEN.fullmatch(token):
        raise ServeError(
            f"The file {file} of --token-file has {len(token)} characters; expected 16 to 512 of "
            "letters, digits and . _ ~ + / -, such as `openssl rand -hex 32` writes."
        )
    return token
