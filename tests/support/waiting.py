"""Waiting for what happens elsewhere: in another thread, a process or a server."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(true: Callable[[], bool], timeout_s: float = 120.0) -> float:
    """Wait for a condition; return the seconds it took, or fail."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < timeout_s, "it never came true"
        time.sleep(0.05)
    return time.monotonic() - began


def settled(
    read: Callable[[], T],
    reached: Callable[[T], bool] = lambda _: True,
    *,
    still_s: float = 0.3,
    timeout_s: float = 60.0,
) -> T:
    """What a server counts, read when it has caught up with the answers it gave.

    Triton updates its statistics and metrics after it has answered, so a reading right after an
    answer may be too low, and one before a request may lack those of earlier tests.

    Args:
        read: what is counted so far; values are compared with `==`.
        reached: whether a value is what the test expects, or beyond it.
        still_s: seconds for which a value has to stay the same.
        timeout_s: after this the last value is returned as it is, for the test to judge.
    """
    value, since = read(), time.monotonic()
    end = since + timeout_s
    while time.monotonic() < end and not (reached(value) and time.monotonic() - since >= still_s):
        time.sleep(0.05)
        if (latest := read()) != value:
            value, since = latest, time.monotonic()
    return value
