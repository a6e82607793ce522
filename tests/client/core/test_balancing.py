"""Which server gets a request: a clock that the test decides."""

import pytest

from ma_agiqa_client._core.balancing import Balancer


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def balancer(now):
    return Balancer(3, lambda: now[0])


def test_idle_servers_take_turns(balancer):
    taken = []
    for _ in range(6):
        taken.append(balancer.acquire())
        balancer.release(taken[-1])
    assert taken == [0, 1, 2, 0, 1, 2]


def test_the_least_busy_server_is_next(balancer):
    assert [balancer.acquire() for _ in range(3)] == [0, 1, 2]
    balancer.release(1)
    assert balancer.acquire() == 1
    assert sorted(balancer.acquire() for _ in range(3)) == [0, 1, 2]


def test_a_server_that_is_not_available_is_paused(balancer, now):
    assert balancer.pause(0)
    taken = {balancer.acquire() for _ in range(4)}
    assert taken == {1, 2}
    now[0] += 1.1
    assert balancer.acquire() == 0


def test_when_all_are_paused_the_one_paused_first_is_tried(balancer, now):
    for server in (1, 0, 2):
        another = balancer.pause(server)
        now[0] += 0.1
    assert not another
    assert balancer.acquire() == 1
