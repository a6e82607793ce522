"""Training of others' networks by the paper's recipe (§4.2).

Adam, mean squared error, constant rate, the epoch with the highest validation SRCC + PLCC; the
numbers come from the config's `optimization`, whose defaults are the paper's.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

from ma_agiqa.data import RatedImage, Split
from ma_agiqa.errors import ConfigError
from ma_agiqa.evaluate.baselines.networks import Network, View
from ma_agiqa.evaluate.baselines.scoring import read_rgb
from ma_agiqa.files import explain_full_disk
from ma_agiqa.metrics.agreement import evaluate
from ma_agiqa.train.callbacks import EpochTable, MarkWhole
from ma_agiqa.train.config import Optimization
from ma_agiqa.train.run_folder import RunFolder

__all__ = ["train_network"]

_UNDEFINED = -2.0  # the lowest SRCC + PLCC there can be, where one of them is not defined
_MOST_WORKERS = 4


class _Views(Dataset[dict[str, Tensor]]):
    """Views of images with their MOS: one drawn at random, or all, (N, 3, H, W)."""

    def __init__(self, images: Sequence[RatedImage], view: View, training: bool) -> None:
        self._images, self._view, self._training = images, view, training

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self._images[index]
        rgb = read_rgb(image)
        pixels = self._view.for_training(rgb) if self._training else self._view.for_scoring(rgb)
        return {"pixels": pixels, "labels": torch.tensor(image.mos, dtype=torch.float32)}


class _NetworkWithLoss(nn.Module):
    """A network in the shape that Trainer asks for."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Score views (B, 3, H, W), or all views of images (B, N, 3, H, W); labels are (B,)."""
        views = pixels if pixels.dim() == 5 else pixels[:, None]
        score = self.network(views.flatten(0, 1)).unflatten(0, views.shape[:2]).float().mean(1)
        return {"loss": F.mse_loss(score, labels), "score": score}


class _NetworkTrainer(Trainer):
    """Trainer with the paper's optimizer: L2 weight decay inside Adam."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Adam on every parameter."""
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(
                (model or self.model).parameters(),
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer


def train_network(
    network: Network,
    split: Split,
    optimization: Optimization,
    seed: int,
    folder: RunFolder,
    progress: bool = False,
) -> None:
    """Train a network in place; it ends with the weights of the best epoch.

    A killed run goes on at its last whole epoch when it is called again with the same folder.

    Args:
        network: on its device.
        split: train and validation part are used.
        optimization: epochs, batch size, accumulation, rate, weight decay and precision are used.
        seed: of the order of the images, the crops and dropout.
        folder: of the run, started.
        progress: show bars on stderr.

    Raises:
        ConfigError: a batch size that does not fit.
        DataError: an image cannot be read, or the disk is full.
    """
    device = next(network.parameters()).device
    trainer = _NetworkTrainer(
        _NetworkWithLoss(network),
        _arguments(folder, optimization, seed, progress, device),
        train_dataset=_Views(split.train, network.view, training=True),
        eval_dataset=_Views(split.validation, network.view, training=False),
        compute_metrics=_selection_metrics,
    )
    trainer.remove_callback(PrinterCallback)
    if not progress:
        trainer.remove_callback(ProgressCallback)
    trainer.add_callback(EpochTable())
    trainer.add_callback(MarkWhole(folder))
    whole = folder.newest_whole()
    with explain_full_disk(folder.path):
        trainer.train(resume_from_checkpoint=str(whole) if whole else None)
    network.to(device).eval()


def _arguments(
    folder: RunFolder,
    optimization: Optimization,
    seed: int,
    progress: bool,
    device: torch.device,
) -> TrainingArguments:
    if optimization.batch_size % optimization.accumulation:
        raise ConfigError(
            f"optimization.batch_size is {optimization.batch_size}; it must be a multiple of "
            f"accumulation, which is {optimization.accumulation}."
        )
    settings: dict[str, Any] = {
        "num_train_epochs": optimization.epochs,
        "per_device_train_batch_size": optimization.batch_size // optimization.accumulation,
        "gradient_accumulation_steps": optimization.accumulation,
        "learning_rate": optimization.learning_rate,
        "weight_decay": optimization.weight_decay,
        "max_grad_norm": optimization.max_grad_norm,
        "bf16": optimization.precision == "bfloat16",
    }
    arguments = TrainingArguments(
        output_dir=str(folder.path),
        **settings,
        lr_scheduler_type="constant",
        per_device_eval_batch_size=1,  # images of one part differ in size
        seed=seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,  # the last may still be under way when the run is killed
        load_best_model_at_end=True,
        metric_for_best_model="srcc_plus_plcc",
        greater_is_better=True,
        use_cpu=device.type == "cpu",
        dataloader_num_workers=0 if device.type == "cpu" else _MOST_WORKERS,
        dataloader_pin_memory=device.type == "cuda",
        label_names=["labels"],
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=not progress,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _selection_metrics(prediction: EvalPrediction) -> dict[str, float]:
    metrics = evaluate(prediction.label_ids, prediction.predictions)
    total = metrics.srcc + metrics.plcc
    return {**metrics.to_dict(), "srcc_plus_plcc": _UNDEFINED if math.isnan(total) else total}
