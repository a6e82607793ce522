"""Callbacks of the trainer: a table of the epochs, and marks on complete checkpoints."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ma_agiqa.torchrun import process_state
from ma_agiqa.train.run_folder import RunFolder

_HEAD = " epoch      rate  train MSE  val SRCC    PLCC    KRCC    RMSE  images  seconds"
_ROW = "{:3d}/{:<3d}  {:.1e}  {:9.4f}  {:8.4f}  {:6.4f}  {:6.4f}  {:6.4f}  {:6d}  {:7.0f}{}"

_logger = logging.getLogger(__name__)


class EpochTable(TrainerCallback):
    """Logs a line per epoch: learning rate, loss, validation metrics; `*` marks the best so far."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}
        self._best = -math.inf
        self._began = time.monotonic()
        self._headed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Continue with the best of the epochs before a resume."""
        self._best = -math.inf if state.best_metric is None else state.best_metric

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the epoch's clock."""
        self._began = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Keep the loss and the learning rate, which come before the metrics."""
        self._logged.update(logs or {})

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
        found = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        is_best = found["srcc_plus_plcc"] > self._best
        self._best = max(self._best, found["srcc_plus_plcc"])
        _logger.info(
            _ROW.format(
                round(state.epoch or 0),
                round(args.num_train_epochs),
                self._logged.get("learning_rate", math.nan),
                self._logged.get("loss", math.nan),
                *(found[name] for name in ("srcc", "plcc", "krcc", "rmse")),
                found["count"],
                time.monotonic() - self._began,
                "  *" if is_best else "",
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
