"""What the tests of running servers share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner, Result
from tritonclient.grpc import InferenceServerClient

from embedded.server import EmbeddedTriton
from ma_agiqa_client import Scorer
from ma_agiqa_client.cli import main
from support.servers import serving
from support.stand_in.repository import write_stand_in
from support.worded_repository import write_worded_owl, write_worded_repository


@pytest.fixture(scope="session")
def mplug_owl2(tiny_owl, tmp_path_factory) -> Path:
    """The folder of a small mPLUG-Owl2 that has words. Only to read."""
    return write_worded_owl(tmp_path_factory.mktemp("mplug_owl2"), tiny_owl)


@pytest.fixture(scope="module")
def worded(mplug_owl2, tmp_path_factory) -> Iterator[EmbeddedTriton]:
    """A server whose language model has words, if random ones. It answers questions, too."""
    folder = tmp_path_factory.mktemp("worded") / "models"
    with serving(write_worded_repository(folder, mplug_owl2), explain=True) as running:
        yield running


@pytest.fixture
def client(server: EmbeddedTriton) -> Iterator[InferenceServerClient]:
    """Triton's bare client of the shipped model."""
    with InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.fixture
def scorer(stand_in: EmbeddedTriton) -> Iterator[Scorer]:
    """A client of the stand-in."""
    with Scorer(stand_in.grpc_url) as scorer:
        yield scorer


@pytest.fixture(scope="session")
def slow_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's repository at 50 images a second, for what happens in the middle of a run."""
    return write_stand_in(tmp_path_factory.mktemp("slow") / "models", seconds_per_image=0.02)


@pytest.fixture
def slow_server(slow_repository: Path) -> Iterator[EmbeddedTriton]:
    """A running server of `slow_repository`, which the test may end."""
    with serving(slow_repository) as running:
        yield running


@pytest.fixture(scope="session")
def score_py() -> Callable[..., Result]:
    """Runs the command of client/score.py in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, list(map(str, arguments)))

    return run


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEM files: issuer, localhost, client (.pem, .key); and stranger, of another issuer, other."""
    folder = tmp_path_factory.mktemp("certificates")
    issuer, other = trustme.CA(), trustme.CA()
    issuer.cert_pem.write_to_path(folder / "issuer.pem")
    other.cert_pem.write_to_path(folder / "other.pem")
    for name, ca in {"localhost": issuer, "client": issuer, "stranger": other}.items():
        certificate = ca.issue_cert(name)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return folder
