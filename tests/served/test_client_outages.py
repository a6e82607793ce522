"""Servers that go away, come back, and stand in for one another: the real ones."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc

from embedded.server import EmbeddedTriton
from ma_agiqa_client import Retry, Scorer, ServerUnavailableError

ROOT = Path(__file__).resolve().parents[2]


def images(count: int) -> list[np.ndarray]:
    return [
        np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(20, 0)
        for seed in range(count)
    ]


def serve(ports=None) -> EmbeddedTriton:
    repository = ROOT / "model_repository"
    if ports is None:
        return EmbeddedTriton(repository, free_ports=True)
    return EmbeddedTriton(
        repository, grpc_port=ports.grpc, http_port=ports.http, metrics_port=ports.metrics
    )


@pytest.fixture
def own_server():
    """A server that the test may stop."""
    with serve() as running:
        yield running


@pytest.fixture
def restarted():
    """Stops a server and starts it at the same ports; the new one is stopped at the end."""
    servers = []

    def restart(old: EmbeddedTriton, how) -> None:
        how(old)
        servers.append(serve(old.ports))
        servers[-1].start()

    yield restart
    for server in servers:
        server.stop()


def kill(server: EmbeddedTriton) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.stop()


def completed(url: str) -> int:
    with tritonclient.grpc.InferenceServerClient(url) as client:
        return client.get_inference_statistics("ma_agiqa").model_stats[0].inference_count


@pytest.mark.slow
@pytest.mark.parametrize("how", [EmbeddedTriton.stop, kill], ids=["stopped", "killed"])
def test_a_restart_in_the_middle_is_waited_out(own_server, restarted, how):
    given = images(400)
    scores = []
    with Scorer(own_server.grpc_url, timeout_s=120, retry=Retry(budget_s=90)) as scorer:
        for score in scorer.score_many(given, max_in_flight=16):
            scores.append(score)
            if len(scores) == 60:
                other = threading.Thread(target=restarted, args=(own_server, how))
                other.start()
    other.join()
    assert [str(score.error) for score in scores if score.error] == []
    assert [score.index for score in scores] == list(range(400))
    assert completed(own_server.grpc_url) > 200  # by the second server


@pytest.mark.slow
def test_a_server_that_is_gone_keeps_what_is_finished_and_reports_the_rest(own_server):
    given = images(1000)
    scores, began = [], 0.0
    with Scorer(own_server.grpc_url, retry=Retry(budget_s=3)) as scorer:
        for score in scorer.score_many(given, max_in_flight=32):
            scores.append(score)
            if len(scores) == 100:
                kill(own_server)
                began = time.monotonic()
    assert time.monotonic() - began < 60  # one budget of 3 s, not one for each of 900 images
    assert [score.index for score in scores] == list(range(1000))
    failed = [score for score in scores if score.error]
    assert all(score.error is None for score in scores[:100])
    assert len(failed) > 500
    assert {type(score.error) for score in failed} == {ServerUnavailableError}


@pytest.mark.slow
def test_two_servers_share_the_work_and_one_is_enough(server, own_server):
    given = images(300)
    before = completed(server.grpc_url)
    with Scorer([server.grpc_url, own_server.grpc_url], timeout_s=120) as scorer:
        scores = list(scorer.score_many(given[:150], max_in_flight=16))
        shares = completed(server.grpc_url) - before, completed(own_server.grpc_url)
        kill(own_server)
        scores += scorer.score_many(given[150:], max_in_flight=16)
    assert [str(score.error) for score in scores if score.error] == []
    assert min(shares) > 30


@pytest.mark.slow
def test_a_name_with_two_addresses_is_balanced(server, own_server):
    """gRPC's own round robin, over the two addresses of one target."""
    before = completed(server.grpc_url)
    target = f"ipv4:{server.grpc_url},{own_server.grpc_url}"
    with Scorer(target) as scorer:
        assert all(score.error is None for score in scorer.score_many(images(100)))
    shares = completed(server.grpc_url) - before, completed(own_server.grpc_url)
    assert min(shares) > 20


def test_a_name_is_looked_up(server):
    with Scorer(f"dns:///localhost:{server.ports.grpc}") as scorer:
        assert scorer.health()
        assert scorer.score(images(1)[0]).error is None
