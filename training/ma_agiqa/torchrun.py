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

__all__ = ["Processes", "joined_processes", "process_state"]

_T = TypeVar("_T")

_PATIENCE = timedelta(days=7)  # one process may be hours ahead of another


class Processes:
    """What the processes of one job do together.

    Attributes:
        index: of this process; 0 is the main one.
        local_index: of this process on its machine.
        count: of all processes.
    """

    def __init__(self, state: PartialState, group: Any) -> None:
        self.index, self.local_index = state.process_index, max(state.local_process_index, 0)
        self.count, self._group = state.num_processes, group

    def require_one_machine(self) -> None:
        """Refuse several machines: memory-mapped files are shared within one.

        Raises:
            ConfigError: torchrun was started on several.
        """
        local = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        if local < self.count:
            raise ConfigError(
                f"Features are made by the processes of one machine; {local} of the {self.count} "
                "processes run on this one. Run `python -m ma_agiqa features` with torchrun "
                "--nnodes 1 first."
            )

    def on_main(self, action: Callable[[], _T]) -> _T:
        """Do something in the main process; every process gets its result.

        After an error of this package the main process raises it, and the others end (SystemExit),
        so that it is said once.
        """
        outcome: list[Any] = [None, None]
        if self.index == 0:
            try:
                outcome[0] = action()
            except MAAGIQAError as error:
                outcome[1] = error
        if self._group is not None:
            torch.distributed.broadcast_object_list(outcome, src=0, group=self._group)
        result, error = outcome
        if error is not None:
            raise error if self.index == 0 else SystemExit(1)
        return result

    def gather(self, values: list[_T]) -> list[_T]:
        """Wait for all processes; every one gets the values of all, in the order of processes."""
        if self._group is None:
            return values
        lists: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(lists, values, group=self._group)
        return [value for part in lists for value in part]


def process_state() -> PartialState:
    """Accelerate's view of the job; without GPUs its processes meet only if it is told so."""
    return PartialState(cpu=not torch.cuda.is_available())


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the other processes, in a group that does not time out while one is still working."""
    state = process_state()
    group = None
    if state.num_processes > 1:
        group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield Processes(state, group)
    finally:
        if group is not None:
            torch.distributed.destroy_process_group(group)
