"""TLS on a real server that is set up for it."""

from pathlib import Path

import numpy as np
import pytest
import trustme

from embedded.security import Security
from embedded.server import EmbeddedTriton
from ma_agiqa_client import (
    Retry,
    Scorer,
    ServerUnavailableError,
    Tls,
)

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


def picture(seed: int, side: int = 200) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (side // 20, side // 20, 3), np.uint8).repeat(20, 0).repeat(20, 1)


class Open(Security):
    """Closes nothing."""

    def options(self, admin_key: str) -> list[str]:
        return []


@pytest.fixture(scope="module")
def serve():
    """Starts a server with further options of tritonserver."""

    def start(*options: str) -> EmbeddedTriton:
        def command(*arguments):
            return [*original(*arguments), *options]

        original = process.server_command
        process.server_command = command
        try:
            servers.append(EmbeddedTriton(REPOSITORY, free_ports=True, self_test=False))
            servers[-1].start()
            return servers[-1]
        finally:
            process.server_command = original

    servers: list[EmbeddedTriton] = []
    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """PEM files: the issuer, the server's and a client's."""
    folder = tmp_path_factory.mktemp("certificates")
    issuer = trustme.CA()
    issuer.cert_pem.write_to_path(folder / "issuer.pem")
    for name in ("localhost", "client"):
        certificate = issuer.issue_cert(name)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    return folder


@pytest.fixture(scope="module")
def mutual(serve, certificates):
    return serve(
        "--grpc-use-ssl=1",
        "--grpc-use-ssl-mutual=1",
        f"--grpc-server-cert={certificates}/localhost.pem",
        f"--grpc-server-key={certificates}/localhost.key",
        f"--grpc-root-cert={certificates}/issuer.pem",
    )


def tls(certificates, **changes) -> Tls:
    files = {
        "root_certificates": certificates / "issuer.pem",
        "certificate_chain": certificates / "client.pem",
        "private_key": certificates / "client.key",
        "server_name": "localhost",
    }
    return Tls(**(files | changes))


@pytest.mark.slow
def test_mutual_tls(mutual, certificates):
    options = {"tls": tls(certificates), "token": "a-token"}
    with Scorer(mutual.grpc_url, **options) as scorer:
        assert scorer.health()
        assert scorer.score(picture(1)).error is None
    with Scorer(f"localhost:{mutual.ports.grpc}", tls=tls(certificates, server_name=None)) as named:
        assert named.score(picture(1)).error is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"certificate_chain": None, "private_key": None},
        {"root_certificates": "stranger.pem"},
        {"server_name": "another.example.org"},
        None,
    ],
    ids=["no certificate", "unknown issuer", "another name", "no TLS"],
)
def test_connections_that_cannot_be_trusted_are_refused(mutual, certificates, changes):
    security = None
    if changes is not None:
        if "root_certificates" in changes:
            changes = {"root_certificates": certificates / changes["root_certificates"]}
        security = tls(certificates, **changes)
    with (
        Scorer(mutual.grpc_url, tls=security, retry=Retry(connect_budget_s=0.3)) as scorer,
        pytest.raises(ServerUnavailableError, match=mutual.grpc_url),
    ):
        scorer.score(picture(1))
