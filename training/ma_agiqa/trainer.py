"""transformers.Trainer with the paper's loss, optimizer and choice of the best epoch (§4.2)."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ma_agiqa.metrics import evaluate
from ma_agiqa.scorer import MAAGIQA
from ma_agiqa.training_config import Optimisation

__all__ = ["ScorerTrainer", "ScorerWithLoss", "training_arguments"]

_EVAL_BATCH_SIZE = 32
_UNDEFINED = -2.0  # the lowest SRCC + PLCC there can be, where one of them is not defined

_logger = logging.getLogger(__name__)


def training_arguments(
    folder: str | Path, optimisation: Optimisation, seed: int, progress: bool
) -> TrainingArguments:
    """Trainer's arguments for one run whose working files go to a folder."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=optimisation.epochs,
        per_device_train_batch_size=optimisation.batch_size,
        per_device_eval_batch_size=_EVAL_BATCH_SIZE,
        learning_rate=optimisation.learning_rate,
        weight_decay=optimisation.weight_decay,
        lr_scheduler_type=optimisation.schedule,
        warmup_steps=optimisation.warmup_share,
        max_grad_norm=optimisation.max_grad_norm,
        seed=seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="srcc_plus_plcc",
        greater_is_better=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["labels"],
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=not progress,
    )


class ScorerWithLoss(nn.Module):
    """A scorer in the shape that Trainer asks for: the outputs by name, the loss among them.

    It also keeps Trainer from writing settings of its own into the scorer's config.
    """

    def __init__(self, scorer: MAAGIQA) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(
        self, quality_view: Tensor, semantic: Tensor, coherence: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Score a batch and compare with the MOS (B,): mean squared error."""
        output = self.scorer(quality_view, semantic, coherence)
        score = output.score.squeeze(1)
        return {"loss": F.mse_loss(score, labels), "score": score, "gate": output.gate}


class ScorerTrainer(Trainer):
    """Trains a scorer on samples of `features.ScorerDataset`.

    Its predictions are pairs: score (N,) and gate (N, 3).
    """

    def __init__(self, scorer: MAAGIQA, **arguments: Any) -> None:
        super().__init__(ScorerWithLoss(scorer), compute_metrics=_selection_metrics, **arguments)
        self.remove_callback(PrinterCallback)
        if self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
        self.add_callback(_EpochLog())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Adam with L2 weight decay on every trained parameter, as in the paper."""
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(
                [p for p in (model or self.model).parameters() if p.requires_grad],
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer


def _selection_metrics(prediction: EvalPrediction) -> dict[str, float]:
    scores, _ = prediction.predictions
    metrics = evaluate(prediction.label_ids, scores)
    total = metrics.srcc + metrics.plcc
    return {**metrics.to_dict(), "srcc_plus_plcc": _UNDEFINED if math.isnan(total) else total}


class _EpochLog(TrainerCallback):
    """One line per epoch in the log."""

    def __init__(self) -> None:
        self._loss = math.nan

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        self._loss = (logs or {}).get("loss", self._loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        found = metrics or {}
        _logger.info(
            "epoch %d/%d  loss %.4f  validation SRCC %.4f  PLCC %.4f  RMSE %.4f  (%d images)",
            round(state.epoch or 0),
            args.num_train_epochs,
            float(self._loss),
            *(found.get(f"eval_{name}", math.nan) for name in ("srcc", "plcc", "rmse")),
            found.get("eval_count", 0),
        )
