"""Speed of training: the trainer's own steps on a run's own features."""

import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ma_agiqa.benchmark.machine import Row, describe, finish
from ma_agiqa.data import make_split, read_images
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.torchrun import joined_processes
from ma_agiqa.train.config import TrainingConfig
from ma_agiqa.train.run_folder import RunFolder
from ma_agiqa.train.trainer import ScorerTrainer
from ma_agiqa.train.training import freeze, part_datasets, run_features

_WARMUP_STEPS = 5  # the first ones allocate memory and compile kernels


def measure_training(config: TrainingConfig, steps: int, progress: bool = False) -> Row:
    """Train for some steps and keep nothing.

    The features are made first where they are missing. The backbone starts from random weights,
    which cost the same time. The loader is measured first, so that the steps find the
    samples in memory.

    Args:
        config: settings of the run.
        steps: number of steps to measure, after a few that are not.
        progress: show a bar on stderr while features are made.

    Returns:
        A step is the whole of waiting for data, forward, backward and Adam, by all processes; its
        wait is the part in which the trainer waits for its samples. The loader's rate is that of
        the loaders of all processes when nothing else is done.

    Raises:
        ConfigError, DataError: see `train.train`.
    """
    with joined_processes() as processes:
        images = processes.on_main(lambda: read_images(config.data))
    split = make_split(images, config.split)
    datasets = part_datasets(config, images, split, run_features(config, images, progress))
    scorer = MAAGIQA(config.scorer_config())
    freeze(scorer, config.optimization.frozen)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _TimedTrainer(
            scorer,
            RunFolder(Path(folder) / "run"),
            config.optimization,
            config.seed,
            datasets["train"],
            datasets["validation"],
        )
        return trainer.measure(steps)


class _TimedTrainer(ScorerTrainer):
    """The trainer with two clocks; it neither evaluates nor saves."""

    waited_s = 0.0

    def measure(self, steps: int) -> Row:
        """Time the loader, then the steps."""
        batch_size = self._optimization.batch_size
        loader_s = self._time_loader(steps * self.args.gradient_accumulation_steps)
        self.args.max_steps = _WARMUP_STEPS + steps
        self.args.eval_strategy, self.args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        self.args.load_best_model_at_end = False
        clock = _Clock(self)
        self.add_callback(clock)
        self.train()
        return {
            "device": describe(self.args.device),
            "processes": self.args.world_size,
            "steps": steps,
            "images in a step": batch_size,
            "images/s": steps * batch_size / clock.seconds,
            "ms/step": clock.seconds / steps * 1000,
            "wait for data, ms/step": self.waited_s / steps * 1000,
            "wait for data, % of a step": 100 * self.waited_s / clock.seconds,
            "loader alone, images/s": steps * batch_size / loader_s,
        }

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Get the samples of a step, and note how long that took."""
        start = time.perf_counter()
        samples = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waited_s += time.perf_counter() - start
        return samples

    def _time_loader(self, batches: int) -> float:
        loader = self.get_train_dataloader()
        for _ in islice(loader, _WARMUP_STEPS):
            pass
        start = time.perf_counter()
        for _ in islice(chain.from_iterable(repeat(loader)), batches):
            pass
        finish(self.args.device)
        return time.perf_counter() - start


class _Clock(TrainerCallback):
    """Starts both clocks after the warm-up and stops its own after the last step."""

    def __init__(self, trainer: _TimedTrainer) -> None:
        self._trainer, self._start, self.seconds = trainer, 0.0, 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Read the clock, once the device has finished."""
        if state.global_step == _WARMUP_STEPS:
            finish(args.device)
            self._trainer.waited_s = 0.0
            self._start = time.perf_counter()
        if state.global_step == args.max_steps:
            finish(args.device)
            self.seconds = time.perf_counter() - self._start
