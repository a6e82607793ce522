"""A training run: from the table of images to the checkpoint folder."""

import hashlib
import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from ma_agiqa.checkpoints import ModelCard, checkpoint_sha256, save_checkpoint, save_metrics
from ma_agiqa.checkpoints.card import utc_now
from ma_agiqa.data import RatedImage, Split, make_split, read_images
from ma_agiqa.data.features import Features, ScorerDataset, ensure_features
from ma_agiqa.errors import ConfigError
from ma_agiqa.files import explain_full_disk
from ma_agiqa.metrics.agreement import evaluate
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.settings import to_mapping
from ma_agiqa.tensors import GATE_ORDER
from ma_agiqa.torchrun import on_main, process_state
from ma_agiqa.train.calibrate import calibrate
from ma_agiqa.train.config import TrainingConfig
from ma_agiqa.train.feasibility import require_feasible
from ma_agiqa.train.mos_scale import MosScale
from ma_agiqa.train.predict import predict
from ma_agiqa.train.run_folder import RunFolder
from ma_agiqa.train.start import first_scorer
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
        ConfigError, DataError: a setting or a row that cannot be used, a run that could not be
            finished, a training that diverges, or a full disk.
    """
    images = on_main(lambda: read_images(config.data))
    split = make_split(images, config.split)
    require_feasible(config, split)
    if config.data.columns.compared and not config.optimization.rank_weight:
        _logger.warning("data.columns.compared has no effect: optimization.rank_weight is 0.")
    features = run_features(config, images, progress)
    provenance = run_provenance(config, images, split, features)
    folder, output = RunFolder(config.output), Path(config.output)
    on_main(lambda: folder.start({**to_mapping(config), **provenance}, restart))
    scale = MosScale(*config.data.mos_range)
    datasets = part_datasets(config, images, split, features)
    scorer = first_scorer(config, split)
    recipe = (config.optimization, config.seed, datasets["train"], datasets["validation"])
    trainer = ScorerTrainer(scorer, scale, folder, *recipe, progress)
    with explain_full_disk(folder.path), logging_redirect_tqdm():
        epoch = _run(trainer, folder)
    if trainer.is_world_process_zero():
        scale.put_into(scorer)
        card = _card(config, split, provenance)
        with explain_full_disk(output):  # before it is measured, which can fail
            save_checkpoint(output, scorer.cpu(), card, split.rows(), _history(trainer))
        save_metrics(output, {**_measure(scorer, split, datasets), "best_epoch": epoch})
        try:
            calibrate(output, images, split, features)
        except ConfigError as error:
            _logger.warning("The scores will have no intervals. %s", error)
        folder.finish()
    process_state().wait_for_everyone()
    return output


def run_provenance(
    config: TrainingConfig, images: Sequence[RatedImage], split: Split, features: Features
) -> dict[str, Any]:
    """Hash what a run is made from, and describe its embedder: fields of the model card.

    Args:
        config: settings of the run.
        images, split: its images.
        features: features of the images, in their order.
    """
    rows = sorted((i.name, i.mos, key) for i, key in zip(images, features.keys, strict=True))
    return {
        "embedder": dict(features.embedder),
        "split_sha256": split.sha256(),
        "data_sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "init_sha256": checkpoint_sha256(config.init_from) if config.init_from else "",
    }


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
    compared = sorted({image.compared for image in images})
    number_of = {unit: number for number, unit in enumerate(compared)}
    return {
        part: ScorerDataset(
            features,
            [position_of[image.name] for image in members],
            [image.mos for image in members],
            config.augmentation if part == "train" else None,
            config.seed,
            [number_of[image.compared] for image in members],
        )
        for part, members in split.items()
    }


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
    trainer.run(unfinished)
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
        scores, gates, _ = predict(scorer, datasets[part])
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


def _card(config: TrainingConfig, split: Split, provenance: Mapping[str, Any]) -> ModelCard:
    mos = [image.mos for image in split.train]
    quantiles = np.quantile(mos, np.linspace(0, 1, _QUANTILES)).round(4)
    return ModelCard(
        name=config.name,
        preset=config.preset,
        dataset=config.data.name,
        mos_min=config.data.mos_range[0],
        mos_max=config.data.mos_range[1],
        mos_quantiles=tuple(quantiles.tolist()),
        created=utc_now(),
        note=config.note,
        training=to_mapping(config),
        git_commit=_git_commit(),
        **provenance,
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
