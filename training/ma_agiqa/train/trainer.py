"""transformers.Trainer with the paper's loss, optimizer and choice of the best epoch (§4.2).

The order of the images and their augmentation follow from the seed and the epoch alone, so that
they are the same after a resume and with any number of processes. Dropout draws from the random
numbers of each process: with dropout, two processes train as well as one, but not to the same bits.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME

from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.metrics.agreement import evaluate
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.tensors import GATE_ORDER
from ma_agiqa.train.callbacks import (
    CRITERION,
    EpochTable,
    MarkWhole,
    Patience,
    criteria,
    has_no_patience_left,
)
from ma_agiqa.train.config import Optimization
from ma_agiqa.train.mos_scale import MosScale
from ma_agiqa.train.run_folder import RunFolder

_EVAL_BATCH_SIZE = 32
_UNDEFINED = -2.0  # the lowest SRCC + PLCC there can be, where one of them is not defined
_RELEASED_T_MAX = 50  # steps; `T_max` in configs/base.yaml of the authors' repository
_FEW = 16  # images of a group that are drawn together
_STEEPNESS, _LEAST_DIFFERENCE = 4.0, 0.05  # of the ranking loss, per and in units of the MOS
_KEPT_CHECKPOINTS = 2  # the last one may still be incomplete when the run is killed


def training_arguments(
    folder: RunFolder, optimization: Optimization, seed: int, progress: bool, **more: Any
) -> TrainingArguments:
    """Trainer's arguments for one run.

    Args:
        folder, optimization, seed, progress: as `PaperTrainer` takes them.
        more: arguments of `TrainingArguments` that take the place of these.

    Raises:
        ConfigError: a batch that the processes cannot share evenly.
    """
    settings: dict[str, Any] = {
        "num_train_epochs": optimization.epochs,
        "per_device_eval_batch_size": _EVAL_BATCH_SIZE,
        "gradient_accumulation_steps": optimization.accumulation,
        "learning_rate": optimization.learning_rate,
        "weight_decay": optimization.weight_decay,
        "lr_scheduler_type": "cosine"
        if optimization.schedule == "cosine"
        else "constant_with_warmup",
        "warmup_steps": optimization.warmup_share,
        "max_grad_norm": optimization.max_grad_norm,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": optimization.precision == "bfloat16",
        "seed": seed,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": _KEPT_CHECKPOINTS,
        "load_best_model_at_end": True,
        "metric_for_best_model": CRITERION,
        "greater_is_better": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": not progress,
    }
    arguments = TrainingArguments(output_dir=str(folder.path), **{**settings, **more})
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for torchrun, one process each
    parts = arguments.world_size * optimization.accumulation
    if optimization.batch_size % parts:
        raise ConfigError(
            f"optimization.batch_size is {optimization.batch_size}: {arguments.world_size} "
            f"processes with accumulation {optimization.accumulation} need a multiple of {parts}."
        )
    arguments.per_device_train_batch_size = optimization.batch_size // parts
    return arguments


class ScorerWithLoss(nn.Module):
    """A scorer in the shape that Trainer asks for: the outputs by name, the loss among them.

    It also keeps Trainer from writing settings of its own into the scorer's config.

    Args:
        scorer: is changed in training; it learns on the scale of `MosScale`.
        scale: the scale of the labels.
        rank_weight: weight of the ranking loss.
    """

    def __init__(self, scorer: MAAGIQA, scale: MosScale, rank_weight: float = 0.0) -> None:
        super().__init__()
        self.scorer, self._scale, self._rank_weight = scorer, scale, rank_weight

    def forward(
        self,
        quality_view: Tensor,
        semantic: Tensor,
        coherence: Tensor,
        labels: Tensor,
        group: Tensor,
    ) -> dict[str, Tensor]:
        """Score a batch and compare with the MOS (B,), on the learned scale.

        The loss is the mean squared error, plus `rank_weight` times `ranking_loss`.
        """
        output = self.scorer(quality_view, semantic, coherence)
        score = output.score.squeeze(1)
        wanted = self._scale.learned(labels)
        loss = F.mse_loss(score.float(), wanted)
        if self._rank_weight:
            loss = loss + self._rank_weight * ranking_loss(score.float(), wanted, group)
        return {"loss": loss, "score": self._scale.mos(score), "gate": output.gate}


def ranking_loss(score: Tensor, mos: Tensor, group: Tensor) -> Tensor:
    """Average logistic loss of the pairs of a group whose MOS differ, after RankNet (Burges 2005).

    Args:
        score, mos: (B,), on a scale of 0 to 5.
        group: (B,), the same number for images that are compared.

    Returns:
        A number; 0 if there is no such pair.
    """
    pairs = (group[:, None] == group) & (mos[:, None] - mos > _LEAST_DIFFERENCE)
    if not pairs.any():
        return score.sum() * 0.0  # keeps every parameter in the graph
    return F.softplus(-_STEEPNESS * (score[:, None] - score)[pairs]).mean()


class EpochSampler(Sampler[tuple[int, int]]):
    """Draws (epoch, index in the part), in another order in every epoch, in whole batches only.

    Which images are left over differs from epoch to epoch; the authors' loader leaves them out too.

    Args:
        images: number of images in the part.
        batch_size: images per step over all processes.
        seed: seed of the order.
        groups: group of each image; images of a group are then drawn a few at a time.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int, groups: Sequence[int] | None = None
    ) -> None:
        self._images, self._seed, self._epoch, self._groups = images, seed, 0, groups
        self._count = images // batch_size * batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Trainer calls it before every epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self._seed, self._epoch])
        order = random.permutation(self._images)
        if self._groups is not None:
            order = order[np.argsort(np.asarray(self._groups)[order], kind="stable")]
            few = np.array_split(order, max(1, self._images // _FEW))
            order = np.concatenate([few[index] for index in random.permutation(len(few))])
        return iter([(self._epoch, int(index)) for index in order[: self._count]])


class PaperTrainer(Trainer):
    """Trains a network by the paper's recipe; it ends with the weights of the best epoch.

    Args:
        model: is changed in place; its outputs are a mapping with "loss" and "score" (B,), and
            "gate" (B, 3) if it has one.
        folder: folder of the run.
        optimization: the recipe.
        seed: seed of the order and of dropout.
        train: samples to train on, indexed by (epoch, index in the part).
        validation: samples that choose the best epoch, indexed by numbers.
        progress: show bars on stderr.
        more: arguments of `TrainingArguments` that are not the recipe's.

    Raises:
        ConfigError: a batch size that does not fit the processes.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: RunFolder,
        optimization: Optimization,
        seed: int,
        train: Dataset,
        validation: Dataset,
        progress: bool = False,
        **more: Any,
    ) -> None:
        self._optimization = optimization
        groups = getattr(train, "groups", None) if optimization.rank_weight else None
        self._sampler = EpochSampler(len(train), optimization.batch_size, seed, groups)  # type: ignore[arg-type]
        super().__init__(
            model,
            training_arguments(folder, optimization, seed, progress, **more),
            train_dataset=train,
            eval_dataset=validation,
            compute_metrics=partial(_selection_metrics, optimization.criterion),
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(EpochTable())
        self.add_callback(MarkWhole(folder))
        if self.is_world_process_zero():
            self.add_callback(TensorBoardCallback(SummaryWriter(str(folder.curves))))
        if optimization.patience is not None:
            self.add_callback(Patience(optimization.patience))

    def run(self, unfinished: Path | None) -> None:
        """Train to the end; the model then has the weights of the best epoch.

        Args:
            unfinished: checkpoint to continue from.
        """
        if unfinished is not None:
            state = TrainerState.load_from_json(str(unfinished / TRAINER_STATE_NAME))
            if has_no_patience_left(criteria(state), self._optimization.patience):
                self.state = state  # it was stopped between its last epoch and its end
                self._load_best_model()
                return
        self.train(resume_from_checkpoint=str(unfinished) if unfinished else None)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Adam with L2 weight decay on every trained parameter, as in the paper."""
        if self.optimizer is None:
            chosen: Any = model or self.model
            self.optimizer = torch.optim.Adam(
                [p for p in chosen.parameters() if p.requires_grad],
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Make the cosine of the released code, or one of the library's schedules."""
        if self._optimization.schedule != "released_cosine":
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            chosen = optimizer or self.create_optimizer()
            self.lr_scheduler: Any = CosineAnnealingLR(chosen, _RELEASED_T_MAX)
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[Any]:
        return self._sampler


class ScorerTrainer(PaperTrainer):
    """Trains a scorer on samples of `data.features.ScorerDataset`; see `PaperTrainer`."""

    def __init__(
        self,
        scorer: MAAGIQA,
        scale: MosScale,
        folder: RunFolder,
        optimization: Optimization,
        *recipe: Any,
        **more: Any,
    ) -> None:
        model = ScorerWithLoss(scorer, scale, optimization.rank_weight)
        super().__init__(model, folder, optimization, *recipe, **more)
        if optimization.rank_weight and self.args.per_device_train_batch_size < 2:
            raise ConfigError(
                "optimization.rank_weight compares the images that a process takes at a time, and "
                f"batch_size {optimization.batch_size} in {self.args.world_size} processes with "
                f"accumulation {optimization.accumulation} leaves one. Raise the first, or lower "
                "the others."
            )


def _selection_metrics(criterion: str, prediction: EvalPrediction) -> dict[str, float]:
    predicted: Any = prediction.predictions
    scores, *gates = predicted if isinstance(predicted, tuple) else (predicted,)
    if not np.isfinite(scores).all():
        raise DataError(
            "The training has diverged: the scores of the validation part are not finite. Lower "
            "optimization.learning_rate, or set optimization.max_grad_norm, and start from scratch "
            "with --restart."
        )
    metrics = evaluate(prediction.label_ids, scores)
    total = metrics.srcc + (metrics.plcc if criterion == "srcc_plus_plcc" else metrics.plcc_raw)
    means = [np.mean(gate, axis=0, dtype=np.float64) for gate in gates]
    return {
        **metrics.to_dict(),
        CRITERION: _UNDEFINED if math.isnan(total) else total,
        **{f"gate_{n}": float(m) for mean in means for n, m in zip(GATE_ORDER, mean, strict=True)},
    }
