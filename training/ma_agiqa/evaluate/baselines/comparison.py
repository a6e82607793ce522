"""Runs the methods that have no predictions yet.

    <method>.csv              predictions, zero-shot with published weights
    <method>-trained.csv      predictions, trained here on the train part
    <method>*.json            next to each: where code and weights came from
    <method>.safetensors      weights of a network that was trained here
    ...-on-<data set>.csv     the same on the images of another data set

A method whose files are there is finished and not run again; remove its CSV to run it again. A
network that was trained on other ratings, or with other settings, is trained again.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model

from ma_agiqa.data import PARTS, RatedImage, Split, make_split, read_images
from ma_agiqa.errors import ConfigError, MAAGIQAError
from ma_agiqa.evaluate.baselines.methods import METHODS, Method
from ma_agiqa.evaluate.baselines.pyiqa_metrics import load_first_weights
from ma_agiqa.evaluate.baselines.scoring import Options, load, score_images
from ma_agiqa.evaluate.baselines.training import train_network
from ma_agiqa.evaluate.predictions import (
    align_predictions,
    build_predictions,
    read_predictions,
    write_predictions,
)
from ma_agiqa.files import explain_full_disk, write_whole
from ma_agiqa.settings import to_mapping
from ma_agiqa.train.config import TrainingConfig
from ma_agiqa.train.run_folder import RunFolder

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baseline:
    """What came of one method.

    Attributes:
        method: the method.
        trained: whether it was trained here; otherwise it has its published weights.
        origin: where code and weights come from; empty if it was left out.
        frame: its predictions; None if it was left out.
        reason: why it was left out; empty if it was not.
    """

    method: Method
    trained: bool
    origin: str = ""
    frame: pd.DataFrame | None = None
    reason: str = ""


def run_baselines(
    config: TrainingConfig,
    output: Path,
    methods: Sequence[str] = tuple(METHODS),
    part: str = "test",
    options: Options | None = None,
    train: bool = False,
    tested: TrainingConfig | None = None,
) -> list[Baseline]:
    """Run what is missing.

    Args:
        config: its data, split, seed and, for training, optimization are used.
        output: folder of the predictions.
        methods: keys of METHODS.
        part: part of the split.
        options: how methods run.
        train: train the methods that the paper trains, instead of using them as they are.
        tested: names the data set and the split whose images are scored, if it is another one than
            that of the training (paper Table 2).

    Returns:
        The methods in the order of Table 1; one whose code or weights are missing, or which cannot
        measure an image, has the reason.

    Raises:
        ConfigError: an unknown method or part.
        DataError: the table cannot be used, or a file of predictions cannot be read or written, or
            has other images.
    """
    if unknown := [key for key in methods if key not in METHODS]:
        raise ConfigError(f"There is no method {unknown[0]!r}; choose from {', '.join(METHODS)}.")
    if part not in PARTS:
        raise ConfigError(f"There is no part {part!r}; choose one of {PARTS}.")
    split = make_split(read_images(config.data), config.split)
    other = make_split(read_images(tested.data), tested.split) if tested else split
    suffix = f"-on-{re.sub(r'[^A-Za-z0-9.]+', '_', tested.data.name)}" if tested else ""
    job = _Job(config, split, getattr(other, part), output, options or Options(), suffix)
    found: list[Baseline] = []
    for method in (method for key, method in METHODS.items() if key in methods):
        for trained in (False, True):
            finished = job.finished(method, trained)
            if finished is None and trained == (train and method.trained):
                finished = job.run(method, trained)
            found += [finished] if finished is not None else []
    return found


@dataclass(frozen=True)
class _Job:
    """The images of one part, and what runs on them."""

    config: TrainingConfig
    split: Split
    images: tuple[RatedImage, ...]
    output: Path
    options: Options
    suffix: str

    def finished(self, method: Method, trained: bool) -> Baseline | None:
        """What an earlier run gave."""
        csv = self._csv(method, trained)
        try:
            made = json.loads(csv.with_suffix(".json").read_text())
            origin, run = str(made["origin"]), made.get("run")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not csv.is_file() or (trained and run != self._run(method)):
            return None
        reference = build_predictions(self.images, [0.0] * len(self.images))
        frame = align_predictions(read_predictions(csv), reference, csv)
        return Baseline(method, trained, origin, frame)

    def run(self, method: Method, trained: bool) -> Baseline:
        """Train it if asked for, score the images, and keep the predictions."""
        _logger.info(
            "%s (%s): %d images",
            method.name,
            "trained" if trained else "published weights",
            len(self.images),
        )
        try:
            origin, values = self._train(method) if trained else self._use(method)
            scores = [-value for value in values] if method.lower_is_better else values
            frame = build_predictions(self.images, scores)
        except MAAGIQAError as error:
            _logger.warning("%s is left out: %s", method.name, error)
            return Baseline(method, trained, reason=str(error))
        csv = self._csv(method, trained)
        made = {"origin": origin, **({"run": self._run(method)} if trained else {})}
        csv.with_suffix(".json").unlink(missing_ok=True)  # it makes the predictions count
        write_predictions(frame, csv)
        write_whole(csv.with_suffix(".json"), json.dumps(made) + "\n")
        return Baseline(method, trained, origin, frame)

    def _use(self, method: Method) -> tuple[str, list[float]]:
        scorer = load(method.key, self.options)
        return scorer.origin, score_images(scorer, self.images, method, self.options.progress)

    def _train(self, method: Method) -> tuple[str, list[float]]:
        network = load_first_weights(method.key, self.options.device, self.options.download)
        config, weights = self.config, self.output / f"{method.key}.safetensors"
        folder, progress = RunFolder(weights.with_suffix("")), self.options.progress
        run = self._run(method)
        made_from = {"run": json.dumps(run, sort_keys=True)}
        if _metadata(weights) == made_from:  # trained before, and tested on other images
            load_model(network.module, weights, device=self.options.device)
        else:
            folder.start(run, restart=False)
            train_network(network, self.split, config.optimization, config.seed, folder, progress)
            with explain_full_disk(self.output):
                save_model(network.module, str(weights), made_from)
            folder.finish()
        return network.origin, score_images(network, self.images, method, progress)

    def _run(self, method: Method) -> dict[str, Any]:
        """What decides the outcome of a training, as plain values."""
        rated = [*self.split.train, *self.split.validation]
        ratings = json.dumps(sorted((image.name, image.mos) for image in rated))
        return {
            "method": method.key,
            "split": self.split.sha256(),
            "ratings": hashlib.sha256(ratings.encode()).hexdigest(),
            "seed": self.config.seed,
            "optimization": to_mapping(self.config.optimization),
        }

    def _csv(self, method: Method, trained: bool) -> Path:
        return self.output / f"{method.key}{'-trained' if trained else ''}{self.suffix}.csv"


def _metadata(weights: Path) -> dict[str, str] | None:
    """What a file of weights says that it was made from; None where it cannot be read."""
    try:
        with safe_open(weights, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return None
