"""Servers that go away, come back, and stand in for one another: the real Triton."""

import threading
import time

import pytest

from embedded.server import EmbeddedTriton
from ma_agiqa_client import Retry, Scorer, ServerUnavailableError
from support.pictures import picture
from support.servers import kill, serving, stop
from support.triton_requests import images_computed
from support.waiting import wait_until

COUNT = 150


@pytest.fixture(scope="module")
def images():
    return [picture(seed, 24, 32) for seed in range(COUNT)]


def check_restart(server: EmbeddedTriton, repository, how, images) -> None:
    """End a server in the middle of a run and start it again at the same ports; all are scored."""
    scores, done, second = [], threading.Event(), []

    def restart() -> None:
        how(server)
        with serving(repository, at=server) as running:
            done.wait(120)
            second.append(images_computed(running))

    other = threading.Thread(target=restart)
    try:
        with Scorer(server.grpc_url, timeout_s=120, retry=Retry(budget_s=90)) as scorer:
            for score in scorer.score_many(images, max_in_flight=16):
                scores.append(score)
                if len(scores) == COUNT // 4:
                    other.start()
    finally:
        done.set()
        other.join()
    assert [str(score.error) for score in scores if score.error] == []
    assert [score.index for score in scores] == list(range(len(images)))
    assert second[0] > COUNT // 4


@pytest.mark.parametrize("how", [stop, kill])
def test_a_restart_in_the_middle_is_waited_out(slow_server, slow_repository, images, how):
    check_restart(slow_server, slow_repository, how, images)


def test_a_server_that_is_gone_keeps_what_is_finished_and_reports_the_rest(slow_server, images):
    scores, began = [], 0.0
    with Scorer(slow_server.grpc_url, retry=Retry(budget_s=1)) as scorer:
        for score in scorer.score_many(images * 6, max_in_flight=32):
            scores.append(score)
            if len(scores) == 50:
                kill(slow_server)
                began = time.monotonic()
    assert time.monotonic() - began < 60  # one budget of 1 s, not one for each of 900 images
    assert [score.index for score in scores] == list(range(6 * COUNT))
    failed = [score for score in scores if score.error]
    assert all(score.error is None for score in scores[:50])
    assert len(failed) > 500
    assert {type(score.error) for score in failed} == {ServerUnavailableError}


def test_two_servers_share_the_work_and_one_is_enough(stand_in, stand_in_repository, images):
    with serving(stand_in_repository) as other:
        before = images_computed(stand_in)
        with Scorer([stand_in.grpc_url, other.grpc_url], timeout_s=120) as scorer:
            scores = list(scorer.score_many(images, max_in_flight=16))
            shares = images_computed(stand_in) - before, images_computed(other)
            kill(other)
            scores += scorer.score_many(images[:50], max_in_flight=16)
    assert [str(score.error) for score in scores if score.error] == []
    assert min(shares) > 30


def test_a_name_with_two_addresses_is_balanced(stand_in, stand_in_repository, images):
    """gRPC's own round robin over the two addresses of one target, once both are connected."""
    with serving(stand_in_repository) as other:
        with Scorer(f"ipv4:{stand_in.grpc_url},{other.grpc_url}") as scorer:
            wait_until(lambda: scorer.score(images[0]).mos and images_computed(other) > 0)
            before = images_computed(stand_in), images_computed(other)
            for image in images[:100]:
                scorer.score(image)
        after = images_computed(stand_in), images_computed(other)
    shares = [now - then for now, then in zip(after, before, strict=True)]
    assert sum(shares) == 100
    assert min(shares) >= 40  # other calls take turns, too


def test_a_name_is_looked_up(stand_in, images):
    with Scorer(f"dns:///localhost:{stand_in.ports.grpc}") as scorer:
        assert scorer.health()
        assert scorer.score(images[0]).error is None
