"""Deadlines of requests, and the refusals of those that come too late.

When a client has gone, Triton tells only the steps of an ensemble whose queue the request has not
entered yet (measured on 2.51), so a step with a long queue starts work that no client waits for.
Clients therefore send the parameter `deadline_unix_us`, which reaches every step, and each step
refuses what is late before it does any work.

The deadline is a time on this machine's clock. A client cannot know beforehand that its own clock
differs; the refusal therefore holds the time here, and a client that had time left corrects its
clock by it and sends the request again. If the clock here is behind, steps refuse too late, never
too early.
"""

import json
import math
import time
from collections.abc import Callable
from typing import Protocol

PARAMETER = "deadline_unix_us"
"""Request parameter: when the client stops waiting, in microseconds of Unix time."""


class Request(Protocol):
    """What is used of a request of Triton's python backend."""

    def parameters(self) -> str:
        """The request's parameters, a JSON object."""

    def is_cancelled(self) -> bool:
        """Whether the client has gone, or the server has given up the request."""


def unwanted(request: Request, step: str) -> str | None:
    """Explain why a request is not computed: its client has gone, or its deadline has passed.

    Args:
        request: as Triton gives it to a step of the ensemble.
        step: name of the model that is about to start.

    Returns:
        A sentence for an error with the code CANCELLED; None if the request is to be computed.
    """
    late = refusal(request.parameters(), step)
    if late or not request.is_cancelled():  # which asks the server: 0.05 ms against 0.003 ms
        return late
    return f"The request was given up before step {step}; nothing was computed."


def refusal(parameters: str, step: str, now_ns: Callable[[], int] = time.time_ns) -> str | None:
    """Explain why a request is not computed, if its deadline has passed.

    Args:
        parameters: the request's parameters as Triton's python backend gives them, a JSON object.
        step: name of the model that is about to start.
        now_ns: the clock, in nanoseconds of Unix time.

    Returns:
        A sentence that begins with DEADLINE_EXCEEDED and holds the time here; None if there is time
        left, or no deadline.
    """
    deadline_us = json.loads(parameters or "{}").get(PARAMETER)
    now_us = now_ns() // 1000
    if not isinstance(deadline_us, int) or now_us <= deadline_us:
        return None
    return (
        f"DEADLINE_EXCEEDED: the request came to step {step} {(now_us - deadline_us) / 1e6:.3f} s "
        f"after its deadline (server clock {now_us} us); nothing was computed. "
        "Allow more time, or send fewer images at once."
    )


def left_s(parameters: str, now_ns: Callable[[], int] = time.time_ns) -> float:
    """Seconds until the deadline; infinite without one. For the arguments, see `refusal`."""
    deadline_us = json.loads(parameters or "{}").get(PARAMETER)
    return (1000 * deadline_us - now_ns()) / 1e9 if isinstance(deadline_us, int) else math.inf
