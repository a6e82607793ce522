"""What the scores of a trained scorer are worth, learned from the validation part.

    train part       -> which pictures are familiar: the bank of `networks.calibration`
    validation part  -> deviation and reach of the intervals, quantiles of the distances
    test part        -> nothing; coverage and width are measured on it

Intervals are split-conformal (Papadopoulos et al. 2002, "Inductive confidence machines"; Lei et al.
2018, "Distribution-free predictive inference for regression", section 5.2): the error of each
validation picture is divided by the deviation predicted for it, and the reach is the quantile of
these ratios that a sample of n pictures supports, their ceil((n + 1) * level)-th. A new picture of
the same kind then is within reach with at least that probability. The deviation is learned from
other groups of the validation part than those to which it is applied (10 folds), and at the end
from all of it. Pictures from one source err alike, so what counts as n is nearer to the number of
groups; and the epoch was chosen on the same part. That is why coverage is measured on the test
part, too.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor
from torch.utils.data import DataLoader

from ma_agiqa.checkpoints import checkpoint_sha256, load_scorer, save_calibration
from ma_agiqa.data import PARTS, RatedImage, Split
from ma_agiqa.data.features import Features, ScorerDataset
from ma_agiqa.data.foreign import foreign_pictures
from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.calibration import Calibration, difficulty
from ma_agiqa.networks.precision import exact_float32
from ma_agiqa.networks.scorer import MAAGIQA, ScorerOutput
from ma_agiqa.train.predict import INPUTS

LEVEL = 0.9
"""Probability with which an interval holds people's MOS."""

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Levels whose reach the card states, as far as there are enough pictures."""

UNFAMILIAR = 0.02
"""Below this familiarity a score is an extrapolation."""

MIN_IMAGES = 50
"""Fewest validation pictures that are calibrated on."""

_BATCH_SIZE = 32
_FOLDS = 10
_AXES, _NEAREST = (8, 32), 3
_TRAIN = 1000  # pictures of the train part that are looked at
_FOREIGN = 100  # pictures of each kind
_QUANTILES = np.linspace(0, 1, 101)
_ERRORS = (np.arange(41) + 0.5) / 41  # quantiles of the errors that the card states
_RIDGE = 0.02
_PAIRS = 20_000  # pairs of test pictures on which comparisons are measured
_MIN_PAIRS = 100  # of a tenth of the probabilities

_Array = NDArray[np.float64]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """What a scorer gives for rated pictures.

    Attributes:
        output: of N pictures.
        description: their pooled tokens, (N, F).
        mos: what people gave, (N,).
        groups: name of the source or prompt of each, (N,).
    """

    output: ScorerOutput
    description: Tensor
    mos: _Array
    groups: Sequence[str]

    @property
    def errors(self) -> _Array:
        """MOS - score, (N,)."""
        return self.mos - self.output.score[:, 0].double().numpy()


def calibrate(
    folder: Path,
    images: Sequence[RatedImage],
    split: Split,
    features: Features,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Calibrate a checkpoint, and write what was learned into its folder.

    Args:
        folder: the checkpoint's folder.
        images: the images of its run.
        split: their division.
        features: their features, in their order.
        level: probability with which an interval is to hold people's MOS.

    Returns:
        The record that the card then has under `calibration`.

    Raises:
        ConfigError: a level that so few pictures cannot support, or a scorer without quality among
            its inputs.
        CheckpointError: the checkpoint cannot be read.
    """
    scorer, _ = load_scorer(folder)
    if scorer.maniqa is None:
        raise ConfigError(
            f"The scorer in {folder} cannot be calibrated: it does not look at the pixels (quality "
            "is not among its inputs), so it cannot tell which pictures are familiar."
        )
    _require_enough(len(split.validation), level)  # before the work
    place = {image.name: position for position, image in enumerate(images)}
    parts = {}
    for part in PARTS:
        members = getattr(split, part)
        if part == "train":  # enough to know what is familiar
            members = random.Random(0).sample(members, min(len(members), _TRAIN))
        positions, mos = [place[i.name] for i in members], [i.mos for i in members]
        groups = [image.prompt or image.group for image in members]
        parts[part] = observe(scorer, ScorerDataset(features, positions, mos), groups)
    foreign = describe_foreign(scorer)
    calibration, record = fit(parts["train"].description, parts["validation"], foreign, level)
    record["familiarity"]["auroc"] = {
        kind: auroc(calibration, parts["test"].description, found)
        for kind, found in describe_foreign(scorer, seed=1).items()  # others than were chosen by
    }
    for part in ("validation", "test"):
        record[part] = measure_intervals(calibration, parts[part])
    record["test"]["pairs"] = measure_pairs(calibration, parts["test"], record["errors"])
    record["weights_sha256"] = checkpoint_sha256(folder)
    save_calibration(folder, calibration, record)
    _logger.info(
        "Intervals of %.0f %% hold %.1f %% of the %d test ratings; their mean width is %.2f.",
        100 * level,
        100 * record["test"]["coverage"],
        record["test"]["count"],
        record["test"]["width"],
    )
    return record


@torch.inference_mode()
@exact_float32()
def observe(scorer: MAAGIQA, samples: ScorerDataset, groups: Sequence[str]) -> Observed:
    """Run a scorer on samples without augmentation, on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = scorer.to(device).eval()
    outputs, descriptions, mos = [], [], []
    for batch in DataLoader(samples, _BATCH_SIZE):
        found = scorer.score_and_describe(*(batch[name].to(device) for name in INPUTS))
        outputs.append([tensor.float().cpu() for tensor in found[0]])
        descriptions.append(found[1].float().cpu())
        mos.append(batch["labels"].double().numpy())
    output = ScorerOutput(*map(torch.cat, zip(*outputs, strict=True)))
    return Observed(output, torch.cat(descriptions), np.concatenate(mos), groups)


@torch.inference_mode()
@exact_float32()
def describe_foreign(scorer: MAAGIQA, seed: int = 0) -> dict[str, Tensor]:
    """Pooled tokens of pictures unlike those of the training, by kind."""
    device, width = next(scorer.parameters()).device, scorer.config.semantic_dim
    described = {}
    for kind, pictures in foreign_pictures(_FOREIGN, scorer.config.image_size, seed).items():
        parts = torch.from_numpy(pictures).to(device).split(_BATCH_SIZE)
        nothing = [part.new_zeros(len(part), width, dtype=torch.float32) for part in parts]
        found = map(scorer.score_and_describe, parts, nothing, nothing)
        described[kind] = torch.cat([tokens.cpu() for _, tokens in found])
    return described


def fit(
    train: Tensor, validation: Observed, foreign: Mapping[str, Tensor], level: float = LEVEL
) -> tuple[Calibration, dict[str, Any]]:
    """Learn a calibration.

    Args:
        train: pooled tokens of the train part, (N, F).
        validation: the validation part.
        foreign: pooled tokens of pictures that should not be familiar, by kind. Of nearest
            neighbors and Mahalanobis' distance, on few axes or many, what tells them best from the
            validation part is used.
        level: probability with which an interval is to hold people's MOS.

    Returns:
        The calibration and the record of how it was made.

    Raises:
        ConfigError: too few validation pictures.
    """
    count = len(validation.mos)
    _require_enough(count, level)
    calibration, familiarity = _choose_distance(train, validation.description, foreign)
    distance = calibration.distance(validation.description)
    facts = difficulty(validation.output, distance).double().numpy()
    ratios = validation.errors / _cross_fitted(facts, validation.errors, validation.groups)
    unit = float(np.sqrt(np.mean(ratios**2)))  # so that the deviation is one
    ratios /= unit
    slopes, offset = _fit_deviation(facts, validation.errors)
    numbers = {
        "lowest": facts.min(0),
        "highest": facts.max(0),
        "slopes": slopes,
        "offset": [offset + np.log(unit)],
        "reach": [reach(np.abs(ratios), level)],
    }
    for name, value in numbers.items():
        setattr(calibration, name, torch.tensor(np.asarray(value), dtype=torch.float32))
    reaches = {level_: reach(np.abs(ratios), level_) for level_ in LEVELS}
    record = {
        "method": "split-conformal, divided by a predicted deviation",
        "level": level,
        "count": count,
        "groups": len(set(validation.groups)),
        "reach": numbers["reach"][0],
        "reaches": {f"{name:g}": found for name, found in reaches.items() if found is not None},
        "errors": np.quantile(ratios, _ERRORS).round(4).tolist(),
        "familiarity": {**familiarity, "threshold": UNFAMILIAR},
    }
    return calibration, record


def _require_enough(count: int, level: float) -> None:
    """Refuse a validation part of too few pictures."""
    if count < MIN_IMAGES or reach(np.zeros(count), level) is None:
        raise ConfigError(
            f"The validation part has {count} images: too few for intervals of {level:.0%}. At "
            f"least {max(MIN_IMAGES, int(np.ceil(1 / (1 - level))))} are needed; raise "
            "split.validation."
        )


def _choose_distance(
    train: Tensor, held_out: Tensor, foreign: Mapping[str, Tensor]
) -> tuple[Calibration, dict[str, Any]]:
    """A calibration that tells foreign pictures best, without intervals, and how it measures."""
    center, all_axes = _axes(train)
    found: list[tuple[float, str, Calibration]] = []
    for axes in (all_axes[:, :count] for count in _AXES):
        places = (train - center) @ axes
        for name, bank, nearest in (
            ("Mahalanobis' distance to", places.mean(0, keepdim=True), 1),
            (f"distance to the {_NEAREST} nearest of {len(train)}", places, _NEAREST),
        ):
            numbers = {"center": center, "axes": axes, "bank": bank}
            made = _with_distances(numbers, nearest, held_out)
            separated = float(np.mean([auroc(made, held_out, far) for far in foreign.values()]))
            found.append((separated, f"{name} training pictures, on {axes.shape[1]} axes", made))
    _, method, calibration = max(found, key=lambda one: one[0])
    return calibration, {"method": method}


def reach(ratios: _Array, level: float) -> float | None:
    """The quantile of absolute ratios (n,) that holds a new one with probability `level`.

    None where n is too small for any.
    """
    place = int(np.ceil((len(ratios) + 1) * level - 1e-9))
    return float(np.sort(ratios)[place - 1]) if place <= len(ratios) else None


def auroc(calibration: Calibration, known: Tensor, foreign: Tensor) -> float:
    """Probability that a foreign picture is farther than a known one, from pooled tokens."""
    near, far = (calibration.distance(tokens).numpy() for tokens in (known, foreign))
    return float(stats.mannwhitneyu(far, near).statistic / (len(near) * len(far)))


@torch.inference_mode()
def measure_intervals(calibration: Calibration, observed: Observed) -> dict[str, Any]:
    """Share of the ratings that are in their intervals, and the mean width of these."""
    found = calibration(observed.output, observed.description)
    low, high = found.interval.double().numpy().T
    inside = (low <= observed.mos) & (observed.mos <= high)
    familiar = found.familiarity[:, 0].numpy()
    return {
        "coverage": float(inside.mean()),
        "width": float((high - low).mean()),
        "count": len(inside),
        "unfamiliar": float((familiar < UNFAMILIAR).mean()),
    }


@torch.inference_mode()
def measure_pairs(
    calibration: Calibration, observed: Observed, errors: Sequence[float]
) -> dict[str, Any]:
    """How far the probability that one picture is better than another is from how often it is.

    Args:
        calibration: gives the deviations.
        observed: the pictures; those of a pair are of different groups, as errors in one are alike.
        errors: quantiles of the errors in deviations, from which clients compute probabilities.

    Returns:
        "count" of pairs, and "largest_miss", the largest difference between the mean probability
        and the share of pairs in that order, over tenths of the probability; None of few pairs.
    """
    interval = calibration(observed.output, observed.description).interval.double().numpy()
    deviation = (interval[:, 1] - interval[:, 0]) / (2 * float(calibration.reach))
    plausible = interval.mean(1)[:, None] + deviation[:, None] * np.asarray(errors)
    groups = np.unique(observed.groups, return_inverse=True)[1]
    first, second = np.random.default_rng(0).integers(len(groups), size=(2, _PAIRS))
    apart = (groups[first] != groups[second]) & (observed.mos[first] != observed.mos[second])
    first, second = first[apart], second[apart]
    told = (plausible[first][:, :, None] > plausible[second][:, None]).mean((1, 2))
    happened = observed.mos[first] > observed.mos[second]
    tenth = np.minimum((10 * told).astype(int), 9)
    misses = [
        abs(float(told[own].mean() - happened[own].mean()))
        for own in (tenth == number for number in range(10))
        if own.sum() >= _MIN_PAIRS
    ]
    return {"count": len(told), "largest_miss": max(misses, default=None)}


def _axes(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (F,) of pooled tokens (N, F), and axes (F, K) on which their variance is 1."""
    center = tokens.double().mean(0)
    spread = tokens.double().std(0).clamp(min=1e-6)
    _, values, rows = torch.linalg.svd((tokens.double() - center) / spread, full_matrices=False)
    kept = min(max(_AXES), int((values > 1e-6 * values[0]).sum()))
    deviations = values[:kept] / len(tokens) ** 0.5
    return center.float(), (rows[:kept].T / spread[:, None] / deviations).float()


def _with_distances(numbers: Mapping[str, Tensor], nearest: int, held_out: Tensor) -> Calibration:
    """A calibration whose familiarity is complete, and whose intervals are not."""
    open_ = {name: torch.zeros(7) for name in ("lowest", "highest", "slopes")}
    open_ |= {"offset": torch.zeros(1), "reach": torch.zeros(1), "distances": torch.zeros(2)}
    calibration = Calibration({**numbers, **open_}, nearest)
    found = calibration.distance(held_out).double().numpy()
    calibration.distances = torch.tensor(np.quantile(found, _QUANTILES), dtype=torch.float32)
    return calibration


def _cross_fitted(facts: _Array, errors: _Array, groups: Sequence[str]) -> _Array:
    """The deviation of each picture (N,), learned from the other groups' errors."""
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:  # such as one prompt for all pictures
        names, group = np.unique(range(len(errors)), return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[group] % min(_FOLDS, len(names))
    found = np.empty(len(errors))
    for number in np.unique(fold):
        own = fold == number
        slopes, offset = _fit_deviation(facts[~own], errors[~own])
        clipped = np.clip(facts[own], facts[~own].min(0), facts[~own].max(0))
        found[own] = np.exp(clipped @ slopes + offset)
    return found


def _fit_deviation(facts: _Array, errors: _Array) -> tuple[_Array, float]:
    """Slopes and offset of the logarithm of the deviation, by the likelihood of Laplace errors."""
    center, spread = facts.mean(0), facts.std(0)
    scaled = (facts - center) / np.where(spread > 1e-9, spread, np.inf)
    size = np.abs(errors) + 1e-3

    def loss(values: _Array) -> tuple[float, _Array]:
        slopes, offset = values[:-1], values[-1]
        logarithm = scaled @ slopes + offset
        ratio = size * np.exp(-logarithm)
        slope = (1 - ratio) / len(size)
        total = np.mean(ratio + logarithm) + _RIDGE * slopes @ slopes
        return total, np.append(slope @ scaled + 2 * _RIDGE * slopes, slope.sum())

    start = np.append(np.zeros(facts.shape[1]), np.log(size.mean()))
    values = optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x
    slopes = values[:-1] / np.where(spread > 1e-9, spread, np.inf)
    return slopes, float(values[-1] - slopes @ center)
