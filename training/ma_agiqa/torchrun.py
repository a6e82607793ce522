"""What the processes that torchrun started do together; one process alone does all of it."""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import PartialState

from ma_agiqa.errors import ConfigError, MAAGIQAError

_T = TypeVar("_T")

_TIMEOUT = timedelta(days=7)  # one process may be hours ahead of another


def process_state() -> PartialState:
    """Accelerate's view of the job; without GPUs it has to be told to use the CPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def on_main(action: Callable[[], _T]) -> _T:
    """Do something in the main process, and give every process its result.

    The main process raises an error of this package; the other processes exit (SystemExit), so
    that the error is reported once.
    """
    main = process_state().is_main_process
    outcome: list[Any] = [None, None]
    if main:
        try:
            outcome[0] = action()
        except MAAGIQAError as error:
            outcome[1] = error
    if process_state().num_processes > 1:
        torch.distributed.broadcast_object_list(outcome, src=0, group=_patient_group())
    result, failure = outcome
    if failure is not None:
        raise failure if main else SystemExit(1)
    return result


def gather(values: list[_T]) -> list[_T]:
    """Wait for all processes, and give each the values of all, in the order of processes."""
    count = process_state().num_processes
    if count == 1:
        return values
    lists: list[Any] = [None] * count
    torch.distributed.all_gather_object(lists, values, group=_patient_group())
    return [value for part in lists for value in part]


def require_one_machine() -> None:
    """Refuse several machines: memory-mapped files are shared within one only.

    Raises:
        ConfigError: torchrun was started on several machines.
    """
    count = process_state().num_processes
    if (local := int(os.environ.get("LOCAL_WORLD_SIZE", count))) < count:
        raise ConfigError(
            f"Features are computed by the processes of one machine, but only {local} of the "
            f"{count} processes run on this one. Run `python -m ma_agiqa features` with "
            "torchrun --nnodes 1 first."
        )


@cache
def _patient_group() -> Any:
    """A group of all processes that does not time out while one is still working."""
    return torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
