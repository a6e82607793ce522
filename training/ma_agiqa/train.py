"""Train the scorer and write its checkpoint folder.

    python -m ma_agiqa.train --config training/configs/demo.yaml [--output DIR]

The best epoch is the one with the highest validation SRCC + PLCC (paper §4.2); the checkpoint holds
its weights, and its metrics on every image of the validation and the test part.
"""

import argparse
import dataclasses
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from ma_agiqa.checkpoint import ModelCard, save_checkpoint
from ma_agiqa.datasets import PARTS, RatedImage, Split, read_table, split_by_group
from ma_agiqa.errors import ConfigError, MAAGIQAError
from ma_agiqa.features import Features, ScorerDataset, identify, prepare
from ma_agiqa.metrics import evaluate
from ma_agiqa.presets import build_embedder
from ma_agiqa.scorer import MAAGIQA
from ma_agiqa.start import start_at_average
from ma_agiqa.synthetic import ensure
from ma_agiqa.tensors import GATE_ORDER
from ma_agiqa.trainer import ScorerTrainer, training_arguments
from ma_agiqa.training_config import DataSettings, TrainingConfig, load_config

__all__ = ["main", "train"]

_QUANTILES = 101

_logger = logging.getLogger(__name__)


def train(config: TrainingConfig, progress: bool = False) -> Path:
    """Run one training and write the checkpoint folder `config.output`.

    Args:
        config: what to do.
        progress: show bars on stderr.

    Returns:
        Path of the checkpoint folder.

    Raises:
        ConfigError, DataError: a setting or a row that cannot be used.
    """
    images = read_images(config.data)
    split = split_by_group(images, config.split.seed, config.split.validation, config.split.test)
    features, identity = embed(config, images, progress)
    datasets = part_datasets(config, images, split, features)
    set_seed(config.seed)
    scorer = MAAGIQA(config.scorer_config())
    if config.optimisation.start == "average":
        start_at_average(scorer, float(np.mean([image.mos for image in split.train])))
    freeze(scorer, config.optimisation.frozen)
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".train-", dir=output.parent) as work:
        trainer = ScorerTrainer(
            scorer=scorer,
            args=training_arguments(work, config.optimisation, config.seed, progress),
            train_dataset=datasets["train"],
            eval_dataset=datasets["validation"],
        )
        trainer.train()  # ends with the weights of the best epoch
        best = trainer.state.best_global_step / max(trainer.state.max_steps, 1)
        metrics = _measure(trainer, datasets)
    metrics["best_epoch"] = round(best * config.optimisation.epochs)
    card = _card(config, split, identity, metrics)
    return save_checkpoint(output, scorer, card, split.rows())


def read_images(data: DataSettings) -> tuple[RatedImage, ...]:
    """Read the table of a run; builds the synthetic set where it is asked for and missing."""
    if data.synthetic is not None:
        ensure(Path(data.csv).parent, data.synthetic)
    return read_table(data.csv, data.image_folder, data.columns, data.mos_range)


def embed(
    config: TrainingConfig, images: Sequence[RatedImage], progress: bool
) -> tuple[Features, dict[str, Any]]:
    """Features of all images, and the identity of the embedder that made them."""
    embedder = build_embedder(config.embedder)
    width, wanted = embedder.hidden_size, config.scorer_config().semantic_dim
    if width != wanted:
        raise ConfigError(
            f"scorer.semantic_dim is {wanted}, but the embeddings of {config.embedder!r} have "
            f"{width} values; set it to {width}."
        )
    identity = identify(config.embedder, embedder)
    folder, size = config.feature_folder, embedder.image_size
    return prepare(folder, images, embedder, identity, size, progress=progress), identity


def part_datasets(
    config: TrainingConfig, images: Sequence[RatedImage], split: Split, features: Features
) -> dict[str, ScorerDataset]:
    """The samples of each part; only those of the train part are augmented."""
    row_of = {image.name: row for row, image in enumerate(images)}
    return {
        part: ScorerDataset(
            features,
            [row_of[image.name] for image in members],
            [image.mos for image in members],
            config.augmentation if part == "train" else None,
        )
        for part, members in split.items()
    }


def freeze(scorer: MAAGIQA, beginnings: Sequence[str]) -> None:
    """Keep the parameters whose names begin so from being trained.

    Raises:
        ConfigError: a beginning that fits no parameter.
    """
    for beginning in beginnings:
        found = [p for name, p in scorer.named_parameters() if name.startswith(beginning)]
        if not found:
            raise ConfigError(f"optimisation.frozen: no parameter's name begins {beginning!r}.")
        for parameter in found:
            parameter.requires_grad_(False)


def _measure(trainer: ScorerTrainer, datasets: Mapping[str, ScorerDataset]) -> dict[str, Any]:
    """Metrics of the test part at the top, those of the validation part below."""
    results: dict[str, Any] = {}
    for part in PARTS[1:]:
        output = trainer.predict(datasets[part])
        scores, gates = output.predictions
        results[part] = evaluate(output.label_ids, scores).to_dict()
        means = zip(GATE_ORDER, np.mean(gates, axis=0, dtype=np.float64), strict=True)
        results[part]["gate_mean"] = {name: float(mean) for name, mean in means}
    test = results.pop("test")
    return {"split": "test", **test, **results}


def _card(
    config: TrainingConfig, split: Split, identity: Mapping[str, Any], metrics: Mapping[str, Any]
) -> ModelCard:
    settings = dataclasses.asdict(config)
    resolved = {name: settings[name] for name in ("data", "split", "optimisation", "augmentation")}
    resolved["data"]["mos_range"] = list(config.data.mos_range)
    mos = [image.mos for image in split.train]
    quantiles = np.quantile(mos, np.linspace(0, 1, _QUANTILES)).round(4)
    return ModelCard(
        name=config.name,
        preset=config.preset,
        dataset=config.data.name,
        mos_min=config.data.mos_range[0],
        mos_max=config.data.mos_range[1],
        mos_quantiles=tuple(quantiles.tolist()),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        note=config.note,
        embedder=identity,
        seed=config.seed,
        training=resolved,
        split_sha256=split.sha256(),
        git_commit=_git_commit(),
        metrics=metrics,
    )


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, or 1 after an error that stderr explains."""
    parser = argparse.ArgumentParser(
        prog="python -m ma_agiqa.train",
        description="Train the scorer and write its checkpoint folder.",
        epilog="example: python -m ma_agiqa.train --config training/configs/demo.yaml",
    )
    parser.add_argument("--config", required=True, help="YAML file with the settings of the run")
    parser.add_argument("--output", help="checkpoint folder, instead of the config's")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        config = load_config(options.config)
        if options.output:
            config = dataclasses.replace(config, output=options.output)
        folder = train(config, progress=sys.stderr.isatty())
    except MAAGIQAError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    metrics = json.loads((folder / "metrics.json").read_text())
    sys.stdout.write(json.dumps({"checkpoint": str(folder), **metrics}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
