"""Memory of bodies is used again, but never while something refers to it."""

import numpy as np
import pytest

from ma_agiqa_client.rewards._body_memory import BodyMemory

MIB = 2**20


def test_memory_is_used_again_for_a_body_that_fits():
    memory = BodyMemory(8 * MIB)
    first = memory.take(4 * MIB)
    owner = first.obj
    first[:3] = b"abc"
    memory.give_back(first)
    assert memory.take(5 * MIB).obj is not owner
    again = memory.take(3 * MIB)
    assert again.obj is owner
    assert len(again) == 3 * MIB
    assert memory.take(3 * MIB).obj is not owner


@pytest.mark.parametrize(
    "use",
    [
        lambda body: body[100:200],
        lambda body: np.frombuffer(body, np.uint8),
        lambda body: np.frombuffer(body[8:], np.float32),
        lambda body: memoryview(body),
    ],
)
def test_memory_that_is_still_referred_to_is_not_used_again(use):
    memory = BodyMemory()
    body = memory.take(2 * MIB)
    body[:] = b"\x07" * len(body)
    owner, part = body.obj, use(body)
    memory.give_back(body)
    other = memory.take(2 * MIB)
    assert other.obj is not owner
    other[:] = b"\x08" * len(other)
    assert set(bytes(part)) == {7}


def test_no_more_than_the_limit_is_kept():
    memory = BodyMemory(5 * MIB)
    bodies = [memory.take(size * MIB) for size in (2, 6, 3, 1)]
    owners = [body.obj for body in bodies]
    for body in bodies:
        memory.give_back(body)
    again = [memory.take(size * MIB).obj for size in (3, 1, 2)]
    assert again[0] is owners[2]
    assert again[1] is owners[3]
    assert again[2] is not owners[0]


def test_small_bodies_leave_the_kept_memory_alone():
    memory = BodyMemory()
    large = memory.take(2 * MIB)
    owner = large.obj
    memory.give_back(large)
    assert memory.take(10).obj is not owner
    memory.give_back(memory.take(0))
    assert memory.take(2 * MIB).obj is owner
