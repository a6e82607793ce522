"""Until when a request's answer is wanted, and what is said to one that comes too late.

When the client has gone, Triton says so only to the steps of an ensemble whose queue the request
has not entered yet (measured on 2.51), so a step whose queue is long begins work that nobody waits
for any more. So clients send the parameter `deadline_unix_us`, which reaches every step, and each
step refuses what is late before it does any work.

The deadline is a time on this machine's clock. Where the client's clock differs, it cannot know
that beforehand; the refusal therefore tells the time here, and a client that had time left corrects
its clock by it and sends again. A clock here that is behind makes steps refuse too late, never too
early.
"""

import json
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["PARAMETER", "Request", "given_up", "refusal", "unwanted"]

PARAMETER = "deadline_unix_us"
"""Request parameter: until when the answer is wanted, in microseconds of Unix time."""


class Request(Protocol):
    """What is asked of a request of Triton's python backend."""

    def parameters(self) -> str:
        """The request's parameters, a JSON object."""

    def is_cancelled(self) -> bool:
        """Whether the client has gone, or the server gives the request up."""


def unwanted(request: Request, step: str) -> str | None:
    """Say why a request is not worked on: nobody waits for it, or it is too late for it.

    Args:
        request: as Triton gives it to a step of the ensemble.
        step: name of the model that is about to begin.

    Returns:
        A sentence for an error with the code CANCELLED; None if there is work to do.
    """
    return refusal(request.parameters(), step) or given_up(request, step)


def given_up(request: Request, step: str) -> str | None:
    """Say that nobody waits for a request any more, if so.

    It is asked last: it takes 0.05 ms, as the server has to be asked, and `refusal` 0.003 ms.
    """
    if not request.is_cancelled():
        return None
    return f"The request was given up before step {step}; nothing was computed."


def refusal(parameters: str, step: str, now_ns: Callable[[], int] = time.time_ns) -> str | None:
    """Say why a request is not worked on, if it is too late for it.

    Args:
        parameters: the request's parameters as Triton's python backend gives them, a JSON object.
        step: name of the model that is about to begin.
        now_ns: the clock, in nanoseconds of Unix time.

    Returns:
        A sentence that begins with DEADLINE_EXCEEDED and tells the time; None if there is time, or
        no deadline.
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
