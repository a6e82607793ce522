"""TLS, headers that open closed services, and shared memory, on real servers set up for them."""

import os
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import trustme

from embedded.launch import Launch
from embedded.security import Security
from embedded.server import EmbeddedTriton
from ma_agiqa_client import (
    AsyncScorer,
    AuthenticationError,
    Retry,
    Scorer,
    ServerUnavailableError,
    SharedMemory,
    Tls,
)

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
KEY = {"triton-grpc-protocol-key": "secret"}


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

    def start(*options: str, security: Security | None = None) -> EmbeddedTriton:
        settings = {"security": security, "launch": Launch(options=options)}
        servers.append(EmbeddedTriton(REPOSITORY, free_ports=True, self_test=False, **settings))
        servers[-1].start()
        return servers[-1]

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


@pytest.fixture(scope="module")
def sharing(serve):
    """A server that takes shared memory from those who know the key, and keeps a service closed."""
    return serve("--grpc-restricted-protocol=shared-memory:key=secret", security=Open())


def regions(server: EmbeddedTriton) -> list[str]:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        return list(client.get_system_shared_memory_status(headers=KEY).regions)


def shared_files() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("ma-agiqa-client-")}


@pytest.mark.slow
def test_shared_memory_gives_the_same_scores_and_is_given_back(sharing):
    given = [picture(seed) for seed in range(30)]
    before = shared_files()
    with Scorer(sharing.grpc_url) as scorer:
        expected = [score.mos for score in scorer.score_many(given)]
    with Scorer(sharing.grpc_url, shared_memory=True, metadata=KEY) as scorer:
        scores = list(scorer.score_many(given))
        assert len(regions(sharing)) == 1
        assert len(shared_files() - before) == 1
    assert [score.mos for score in scores] == pytest.approx(expected, abs=1e-3)
    assert regions(sharing) == []
    assert shared_files() == before


@pytest.mark.slow
def test_what_does_not_fit_the_shared_memory_travels_over_the_connection(sharing):
    given = [picture(seed, 200 + 200 * (seed % 2)) for seed in range(8)]
    small = SharedMemory(slots=2, slot_bytes=200 * 200 * 3 + 100)
    with Scorer(sharing.grpc_url, shared_memory=small, metadata=KEY) as scorer:
        assert all(score.error is None for score in scorer.score_many(given))


@pytest.mark.slow
def test_a_server_that_has_lost_the_memory_is_given_it_again(sharing):
    with Scorer(sharing.grpc_url, shared_memory=True, metadata=KEY) as scorer:
        expected = scorer.score(picture(1)).mos
        with tritonclient.grpc.InferenceServerClient(sharing.grpc_url) as client:
            client.unregister_system_shared_memory(headers=KEY)  # as a restart does
        assert scorer.score(picture(1)).mos == expected
    assert regions(sharing) == []


@pytest.mark.slow
def test_shared_memory_from_an_event_loop(sharing):
    import asyncio

    async def main():
        options = {"shared_memory": True, "metadata": KEY}
        async with AsyncScorer(sharing.grpc_url, **options) as scorer:
            return [score async for score in scorer.score_many([picture(1)] * 10)]

    assert all(score.error is None for score in asyncio.run(main()))
    assert regions(sharing) == []


@pytest.mark.slow
def test_a_closed_service_is_an_error_at_once(sharing):
    with (
        Scorer(sharing.grpc_url, shared_memory=True, metadata={}) as scorer,
        pytest.raises(AuthenticationError, match="restricted"),
    ):
        scorer.score(picture(1))
