"""A training run: from the table of images to the checkpoint folder."""

import logging
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import set_seed

from ma_agiqa.checkpoints import ModelCard, save_checkpoint
from ma_agiqa.data import RatedImage, Split, make_split, read_images
from ma_agiqa.data.features import Features, ScorerDataset, ensure_features
from ma_agiqa.errors import ConfigError
from ma_agiqa.files import explain_full_disk
from ma_agiqa.metrics.agreement import evaluate
from ma_agiqa.networks.initialization import start_at_average
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.settings import to_mapping
from ma_agiqa.tensors import GATE_ORDER
from ma_agiqa.torchrun import joined_processes, process_state
from ma_agiqa.train.config import TrainingConfig
from ma_agiqa.train.predict import predict
from ma_agiqa.train.run_folder import RunFolder
from ma_agiqa.train.trainer import ScorerTrainer

_QUANTILES = 101

_logger = logging.getLogger(__name__)


def train(config: TrainingConfig, restart: bool = False, progress: bool = False) -> Path:
    """Run one training, or what is left of it, and write the checkpoint folder `config.output`.

    Every process of a `torchrun` calls this; the first one writes.

    Args:
        config: what to do.
        restart: start from scratch, even if an unfinished run is there.
        progress: show bars on stderr.

    Returns:
        Path of the checkpoint folder.

    Raises:
        ConfigError, DataError: a setting or a row that cannot be used, or a full disk.
    """
    with joined_processes() as processes:
        images = processes.on_main(lambda: read_images(config.data))
    split = make_split(images, config.split)
    features = run_features(config, images, progress)
    folder = RunFolder(config.output)
    run = {**to_mapping(config), "split_sha256": split.sha256(), "embedder": features.identity}
    with joined_processes() as processes:
        processes.on_main(lambda: folder.start(run, restart))
    datasets = part_datasets(config, images, split, features)
    scorer = _new_scorer(config, split)
    trainer = ScorerTrainer(
        scorer,
        folder,
        config.optimization,
        config.seed,
        datasets["train"],
        datasets["validation"],
        progress,
    )
    with explain_full_disk(folder.path), logging_redirect_tqdm():
        epoch = _run(trainer, folder)
    output = Path(config.output)
    if trainer.is_world_process_zero():
        metrics = {**_measure(scorer, split, datasets), "best_epoch": epoch}
        card = _card(config, split, features.identity, metrics)
        history = _history(trainer)
        with explain_full_disk(output):
            save_checkpoint(output, scorer.cpu(), card, split.rows(), history)
        folder.finish()
    process_state().wait_for_everyone()
    return output


def run_features(
    config: TrainingConfig, images: Sequence[RatedImage], progress: bool = False
) -> Features:
    """Find or make the features of a run's images, see `data.features.ensure_features`."""
    return ensure_features(
        config.embedder,
        config.features,
        config.feature_folder,
        images,
        config.scorer_config().semantic_dim,
        progress=progress,
    )


def part_datasets(
    config: TrainingConfig, images: Sequence[RatedImage], split: Split, features: Features
) -> dict[str, ScorerDataset]:
    """Make the samples of each part; only those of the train part are augmented."""
    position_of = {image.name: position for position, image in enumerate(images)}
    return {
        part: ScorerDataset(
            features,
            [position_of[image.name] for image in members],
            [image.mos for image in members],
            config.augmentation if part == "train" else None,
            config.seed,
        )
        for part, members in split.items()
    }


def freeze(scorer: MAAGIQA, beginnings: Sequence[str]) -> None:
    """Keep parameters from being trained.

    Args:
        scorer: is changed.
        beginnings: prefixes of the parameters' names.

    Raises:
        ConfigError: a beginning that no parameter's name has.
    """
    for beginning in beginnings:
        found = [p for name, p in scorer.named_parameters() if name.startswith(beginning)]
        if not found:
            raise ConfigError(
                f"optimization.frozen: no parameter's name begins with {beginning!r}."
            )
        for parameter in found:
            parameter.requires_grad_(False)


def _new_scorer(config: TrainingConfig, split: Split) -> MAAGIQA:
    set_seed(config.seed)
    scorer = MAAGIQA(config.scorer_config(), config.backbone_weights)
    if config.optimization.start == "average":
        start_at_average(scorer, float(np.mean([image.mos for image in split.train])))
    freeze(scorer, config.optimization.frozen)
    return scorer


def _run(trainer: ScorerTrainer, folder: RunFolder) -> int:
    """Train to the end; returns the best epoch, whose weights the scorer then has."""
    unfinished = folder.newest_whole()
    if trainer.is_world_process_zero():
        _logger.info(
            "%d images a step on %d x %s, %s.",
            trainer.args.train_batch_size
            * trainer.args.gradient_accumulation_steps
            * trainer.args.world_size,
            trainer.args.world_size,
            trainer.args.device.type,
            f"continuing from {unfinished}" if unfinished else "from the start",
        )
    trainer.train(resume_from_checkpoint=str(unfinished) if unfinished else None)
    steps_per_epoch = (
        len(trainer.get_train_dataloader()) // trainer.args.gradient_accumulation_steps
    )
    return round((trainer.state.best_global_step or 0) / steps_per_epoch)


def _measure(
    scorer: MAAGIQA, split: Split, datasets: Mapping[str, ScorerDataset]
) -> dict[str, Any]:
    """Metrics of the test part at the top, those of the validation part below."""
    results: dict[str, Any] = {}
    for part, members in split.items():
        if part == "train":
            continue
        scores, gates = predict(scorer, datasets[part])
        results[part] = evaluate([image.mos for image in members], scores).to_dict()
        means = zip(GATE_ORDER, np.mean(gates, axis=0, dtype=np.float64), strict=True)
        results[part]["gate_mean"] = {name: float(mean) for name, mean in means}
    test = results.pop("test")
    return {"split": "test", **test, **results}


def _history(trainer: ScorerTrainer) -> list[dict[str, float]]:
    """What was logged, one row per epoch."""
    rows: dict[int, dict[str, float]] = {}
    for entry in trainer.state.log_history:
        row = rows.setdefault(round(entry["epoch"]), {"epoch": round(entry["epoch"])})
        for name in ("learning_rate", "loss"):
            if name in entry:
                row[name] = entry[name]
        for name in ("srcc", "plcc", "krcc", "rmse"):
            if f"eval_{name}" in entry:
                row[f"validation_{name}"] = entry[f"eval_{name}"]
    return list(rows.values())


def _card(
    config: TrainingConfig, split: Split, identity: Mapping[str, Any], metrics: Mapping[str, Any]
) -> ModelCard:
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
        training=to_mapping(config),
        split_sha256=split.sha256(),
        git_commit=_git_commit(),
        metrics=metrics,
    )


def _git_commit() -> str | None:
    """Commit of this code, with "+changes" if files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = _output([*git, "rev-parse", "HEAD"])
        return commit + "+changes" if _output([*git, "status", "--porcelain", "."]) else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
