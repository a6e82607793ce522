"""Runs the methods that have no predictions yet, and puts all of them on one footing.

    predictions/<method>.csv            zero-shot, with published weights or those brought along
    predictions/<method>-trained.csv    trained by us on the train part
    predictions/*.json                  beside each: where code and weights came from
    weights/<method>.safetensors        of the networks that we trained

A method with both files is finished and not run again; remove its CSV to run it again.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save_model

from ma_agiqa.data import PARTS, RatedImage, Split, make_split, read_images
from ma_agiqa.errors import ConfigError, MAAGIQAError
from ma_agiqa.evaluate.baselines.loading import NetworkScorer, Options, load, load_network
from ma_agiqa.evaluate.baselines.methods import METHODS, Method
from ma_agiqa.evaluate.baselines.scoring import score_images
from ma_agiqa.evaluate.baselines.training import train_network
from ma_agiqa.evaluate.predictions import build_predictions, read_predictions, write_predictions
from ma_agiqa.files import explain_full_disk, write_whole
from ma_agiqa.metrics.agreement import Metrics, evaluate
from ma_agiqa.train.config import TrainingConfig
from ma_agiqa.train.run_folder import RunFolder

__all__ = ["Outcome", "compare", "measure"]

ZERO_SHOT, TRAINED, GIVEN = "zero-shot", "trained", "given"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of one method.

    Attributes:
        name: as in Table 1, or as the user calls given predictions.
        kind: "zero-shot", "trained" (here, on the train part), or "given" (predictions of another
            model).
        origin: of code and weights; empty where it was left out.
        metrics: on the part; None where it was left out.
        reason: why it was left out; empty where it was not.
    """

    name: str
    kind: str
    origin: str = ""
    metrics: Metrics | None = None
    reason: str = ""


def compare(
    config: TrainingConfig,
    output: str | Path,
    methods: Sequence[str] = tuple(METHODS),
    part: str = "test",
    options: Options | None = None,
    train: bool = False,
    given: Mapping[str, Path] | None = None,
) -> list[Outcome]:
    """Run what is missing and measure everything on one part of the split.

    Args:
        config: its data, split, seed and, for training, optimization are used.
        output: folder of the predictions.
        methods: keys of METHODS.
        part: of the split.
        options: where methods find what they need.
        train: train the methods that the paper trains, instead of using them as they are.
        given: files of predictions of other models, by name.

    Returns:
        The outcomes in the order of Table 1, given ones at the end. A method whose code or
        weights are missing, or which cannot measure an image, is among them with the reason.

    Raises:
        ConfigError: an unknown method or part, or finished predictions of other images.
        DataError: the table cannot be used, a file of predictions cannot be read or written.
    """
    if unknown := [key for key in methods if key not in METHODS]:
        raise ConfigError(f"There is no method {unknown[0]!r}; choose from {', '.join(METHODS)}.")
    if part not in PARTS:
        raise ConfigError(f"There is no part {part!r}; choose one of {PARTS}.")
    output, options = Path(output), options or Options()
    split = make_split(read_images(config.data), config.split)
    images: tuple[RatedImage, ...] = getattr(split, part)
    outcomes = [_given(name, path, images) for name, path in (given or {}).items()]
    measured: list[Outcome] = []
    for method in (method for key, method in METHODS.items() if key in methods):
        trains = train and method.trained
        wanted = TRAINED if trains else ZERO_SHOT
        produce = (
            partial(_train, method, config, split, images, output, options)
            if trains
            else partial(_use, method, images, options)
        )
        for kind in (ZERO_SHOT, TRAINED):
            found = _finished(method, kind, images, output)
            if not found and kind == wanted:
                found = [_run(method, kind, produce, images, output)]
            measured += found
    return measured + outcomes


def measure(mos: Iterable[float], scores: Iterable[float]) -> Metrics:
    """Metrics of scores on any scale.

    The scores are first brought to the mean and the spread of the MOS: this changes no
    correlation, but the logistic fit starts where it was made for, and finds its optimum.
    """
    y, x = np.array(list(mos)), np.array(list(scores))
    if np.ptp(x) > 0 and np.ptp(y) > 0:
        x = (x - x.mean()) / x.std() * y.std() + y.mean()
    return evaluate(y, x)


def _run(
    method: Method,
    kind: str,
    produce: Callable[[], tuple[list[float], str]],
    images: Sequence[RatedImage],
    output: Path,
) -> Outcome:
    _logger.info("%s (%s): %d images", method.name, kind, len(images))
    try:
        values, origin = produce()
        scores = [-value for value in values] if method.lower_is_better else values
        frame = build_predictions(images, scores)
    except MAAGIQAError as error:
        _logger.warning("%s is left out: %s", method.name, error)
        return Outcome(method.name, kind, reason=str(error))
    csv = _csv(method, kind, output)
    about = {"method": method.name, "kind": kind, "origin": origin}
    write_whole(csv.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
    write_predictions(frame, csv)
    return Outcome(method.name, kind, origin, measure(frame["mos"], frame["score"]))


def _use(method: Method, images: Sequence[RatedImage], options: Options) -> tuple[list[float], str]:
    scorer = load(method.key, options)
    again = partial(load, method.key, options) if method.cpu_bound else None
    values = score_images(scorer, images, again, method.name, options.progress)
    return values, scorer.origin


def _train(
    method: Method,
    config: TrainingConfig,
    split: Split,
    images: Sequence[RatedImage],
    output: Path,
    options: Options,
) -> tuple[list[float], str]:
    network, first = load_network(method.key, options)
    weights = output / "weights" / f"{method.key}.safetensors"
    run = {
        "method": method.key,
        "first_weights": first,
        "split": split.sha256(),
        "seed": config.seed,
        "optimization": json.loads(json.dumps(asdict(config.optimization))),
    }
    folder = RunFolder(weights.with_suffix(""))
    folder.start(run, restart=False)
    train_network(network, split, config.optimization, config.seed, folder, options.progress)
    with explain_full_disk(output):
        save_model(network.module, str(weights))
    folder.finish()
    scorer = NetworkScorer(network, f"trained here from {first}")
    return score_images(scorer, images, None, method.name, options.progress), scorer.origin


def _finished(
    method: Method, kind: str, images: Sequence[RatedImage], output: Path
) -> list[Outcome]:
    """The outcome of an earlier run, if it finished."""
    csv = _csv(method, kind, output)
    description = csv.with_suffix(".json")
    if not (csv.is_file() and description.is_file()):
        return []
    frame = _of_these_images(csv, images)
    try:
        origin = str(json.loads(description.read_text())["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # half-written: the method runs again
    return [Outcome(method.name, kind, origin, measure(frame["mos"], frame["score"]))]


def _given(name: str, path: Path, images: Sequence[RatedImage]) -> Outcome:
    frame = _of_these_images(path, images)
    return Outcome(name, GIVEN, path.name, evaluate(frame["mos"], frame["score"]))


def _of_these_images(path: Path, images: Sequence[RatedImage]) -> pd.DataFrame:
    """Read predictions and make sure that they are of exactly these images.

    Raises:
        ConfigError: they are not; the message names an image.
    """
    frame = read_predictions(path)
    found = dict(zip(frame["image"], frame["mos"], strict=True))
    wanted = {image.name: image.mos for image in images}
    if found == wanted:
        return frame
    different = [name for name in [*wanted, *found] if found.get(name) != wanted.get(name)]
    raise ConfigError(
        f"{path} holds {len(found)} images and this part of the split {len(wanted)}; they differ, "
        f"for instance in {different[0]}. Give predictions of the same split and part, or another "
        "--output."
    )


def _csv(method: Method, kind: str, output: Path) -> Path:
    suffix = "-trained" if kind == TRAINED else ""
    return output / "predictions" / f"{method.key}{suffix}.csv"
