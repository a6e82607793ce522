"""The processes that torchrun started, or this one alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import PartialState

from ma_agiqa.errors import ConfigError, MAAGIQAError

_T = TypeVar("_T")

_TIMEOUT = timedelta(days=7)  # one process may be hours ahead of another


class Processes:
    """The processes of one job, and what they do together.

    Attributes:
        index: index of this process; 0 is the main one.
        local_index: index of this process on its machine.
        count: number of processes.
    """

    def __init__(self, state: PartialState, group: Any) -> None:
        self.index, self.local_index = state.process_index, max(state.local_process_index, 0)
        self.count, self._group = state.num_processes, group

    def require_one_machine(self) -> None:
        """Refuse several machines: memory-mapped files are shared within one only.

        Raises:
            ConfigError: torchrun was started on several machines.
        """
        local = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        if local < self.count:
            raise ConfigError(
                f"Features are computed by the processes of one machine, but only {local} of the "
                f"{self.count} processes run on this one. Run `python -m ma_agiqa features` with "
                "torchrun --nnodes 1 first."
            )

    def on_main(self, action: Callable[[], _T]) -> _T:
        """Do something in the main process, and give every process its result.

        The main process raises an error of this package; the other processes exit (SystemExit), so
        that the error is reported once.
        """
        outcome: list[Any] = [None, None]
        if self.index == 0:
            try:
                outcome[0] = action()
            except MAAGIQAError as error:
                outcome[1] = error
        if self._group is not None:
            torch.distributed.broadcast_object_list(outcome, src=0, group=self._group)
        result, failure = outcome
        if failure is not None:
            raise failure if self.index == 0 else SystemExit(1)
        return result

    def gather(self, values: list[_T]) -> list[_T]:
        """Wait for all processes, and give each the values of all, in the order of processes."""
        if self._group is None:
            return values
        lists: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(lists, values, group=self._group)
        return [value for part in lists for value in part]


def process_state() -> PartialState:
    """Accelerate's view of the job; without GPUs it has to be told to use the CPU."""
    return PartialState(cpu=not torch.cuda.is_available())


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the other processes, in a group that does not time out while one is still working."""
    state = process_state()
    group = None
    if state.num_processes > 1:
        group = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    try:
        yield Processes(state, group)
    finally:
        if group is not None:
            torch.distributed.destroy_process_group(group)
