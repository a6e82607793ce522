"""Speed of training: the trainer's own steps on a run's own features."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ma_agiqa.data import make_split, read_images
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.torchrun import on_main
from ma_agiqa.train.config import TrainingConfig
from ma_agiqa.train.mos_scale import MosScale
from ma_agiqa.train.run_folder import RunFolder
from ma_agiqa.train.start import freeze
from ma_agiqa.train.trainer import ScorerTrainer
from ma_agiqa.train.training import part_datasets, run_features

_WARMUP_STEPS = 5  # the first ones allocate memory and compile kernels


@dataclass(frozen=True)
class TrainingSpeed:
    """What was measured.

    Attributes:
        device: name of the device that trained.
        processes: number of processes that shared each step.
        threads: number of CPU threads in each process.
        batch_size: images per step, over all processes.
        steps: number of steps that were measured.
        step_ms: time of a whole step: waiting for data, forward, backward, Adam.
        wait_ms: the part of it in which the trainer waits for its samples.
        loader_images_per_s: what the loaders of all processes give when nothing else is done.
    """

    device: str
    processes: int
    threads: int
    batch_size: int
    steps: int
    step_ms: float
    wait_ms: float
    loader_images_per_s: float

    @property
    def images_per_s(self) -> float:
        """Rate of training."""
        return self.batch_size / self.step_ms * 1000

    @property
    def wait_share(self) -> float:
        """Share of a step that waits for data, 0 to 1."""
        return self.wait_ms / self.step_ms


def measure_training(config: TrainingConfig, steps: int, progress: bool = False) -> TrainingSpeed:
    """Train for some steps and keep nothing.

    The features are made first where they are missing. The backbone starts from random weights,
    which cost the same time. The loader is measured first, so that the steps find the
    samples in memory.

    Args:
        config: settings of the run.
        steps: number of steps to measure, after a few that are not.
        progress: show a bar on stderr while features are made.

    Raises:
        ConfigError, DataError: see `train.train`.
    """
    images = on_main(lambda: read_images(config.data))
    split = make_split(images, config.split)
    datasets = part_datasets(config, images, split, run_features(config, images, progress))
    scorer = MAAGIQA(config.scorer_config())
    freeze(scorer, config.optimization.frozen)
    scale = MosScale(*config.data.mos_range)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _TimedTrainer(
            scorer,
            scale,
            RunFolder(Path(folder) / "run"),
            config.optimization,
            config.seed,
            datasets["train"],
            datasets["validation"],
        )
        return trainer.measure(steps)


def summary(speed: TrainingSpeed) -> str:
    """Describe a measurement in four lines."""
    processes = f"{speed.processes} process{'es' if speed.processes > 1 else ''}"
    machine = f"{speed.device}, {processes} with {speed.threads} threads, torch {torch.__version__}"
    return (
        f"machine  {machine}\n"
        f"step     {speed.images_per_s:.1f} images/s: {speed.step_ms:.1f} ms for "
        f"{speed.batch_size} images, over {speed.steps} steps\n"
        f"loader   {speed.loader_images_per_s:,.0f} images/s alone\n"
        f"wait     {speed.wait_share:.1%} of a step waits for data ({speed.wait_ms:.2f} ms)"
    )


class _TimedTrainer(ScorerTrainer):
    """The trainer with two clocks; it neither evaluates nor saves."""

    waited_s = 0.0

    def measure(self, steps: int) -> TrainingSpeed:
        """Time the loader, then the steps."""
        batch_size = self._optimization.batch_size
        loader_s = self._time_loader(steps * self.args.gradient_accumulation_steps)
        self.args.max_steps = _WARMUP_STEPS + steps
        self.args.eval_strategy, self.args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        self.args.load_best_model_at_end = False
        clock = _Clock(self)
        self.add_callback(clock)
        self.train()
        return TrainingSpeed(
            _device_name(self.args.device),
            self.args.world_size,
            torch.get_num_threads(),
            batch_size,
            steps,
            step_ms=clock.seconds / steps * 1000,
            wait_ms=self.waited_s / steps * 1000,
            loader_images_per_s=steps * batch_size / loader_s,
        )

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
        _finish(self.args.device)
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
            _finish(args.device)
            self._trainer.waited_s = 0.0
            self._start = time.perf_counter()
        if state.global_step == args.max_steps:
            _finish(args.device)
            self.seconds = time.perf_counter() - self._start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
