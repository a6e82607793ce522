"""Callbacks of the trainer: a table of the epochs, an early stop, marks on complete checkpoints.

What they need of earlier epochs they read from the state that a checkpoint keeps, so that a run
that continues does what it would have done anyway.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ma_agiqa.torchrun import process_state
from ma_agiqa.train.run_folder import RunFolder

CRITERION = "criterion"
"""Name of the metric that chooses the best epoch."""

_HEAD = " epoch      rate  train MSE  val SRCC    PLCC    KRCC    RMSE  images  seconds"
_ROW = "{:3d}/{:<3d}  {:.1e}  {:9.4f}  {:8.4f}  {:6.4f}  {:6.4f}  {:6.4f}  {:6d}  {:7.0f}{}"

_logger = logging.getLogger(__name__)


def criteria(state: TrainerState) -> list[float]:
    """The criterion of every epoch so far."""
    name = f"eval_{CRITERION}"
    return [entry[name] for entry in state.log_history if name in entry]


_ROUNDING = 1e-9  # of a correlation, computed from the same scores in another order


def has_no_patience_left(values: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` epochs were no better, beyond rounding, than one before them."""
    if patience is None or not values:
        return False
    best = max(values)
    first = next((i for i, value in enumerate(values) if value >= best - _ROUNDING), 0)
    return len(values) - 1 - first >= patience


class Patience(TrainerCallback):
    """Ends the training after a number of epochs that are no better."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop if it is time."""
        if has_no_patience_left(criteria(state), self._epochs):
            control.should_training_stop = True


class EpochTable(TrainerCallback):
    """Logs a line per epoch: learning rate, loss, validation metrics; `*` marks the best so far."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._headed = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the epoch's clock."""
        self._began = time.monotonic()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Log the line."""
        if not state.is_world_process_zero:
            return
        if not self._headed:
            _logger.info(_HEAD)
            self._headed = True
        trained = next((e for e in reversed(state.log_history) if "loss" in e), {})
        found = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        *before, last = criteria(state)
        _logger.info(
            _ROW.format(
                round(state.epoch or 0),
                round(args.num_train_epochs),
                *(trained.get(name, math.nan) for name in ("learning_rate", "loss")),
                *(found[name] for name in ("srcc", "plcc", "krcc", "rmse")),
                found["count"],
                time.monotonic() - self._began,
                "  *" if last > max(before, default=-math.inf) else "",
            )
        )


class MarkWhole(TrainerCallback):
    """Marks a checkpoint when every process has written its part of it."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Wait for all processes, then mark."""
        process_state().wait_for_everyone()
        if state.is_world_process_zero:
            self._folder.mark_whole(state.global_step)
