"""Checkpoint folders: what training writes, and export and evaluation read.

model.safetensors   the scorer's weights
config.yaml         resolved scorer settings, model card, embedder, training settings
metrics.json        what was measured, on which part
split.csv           image, part: which images were trained, validated and tested on
history.csv         one row per epoch: rate, loss, validation metrics
calibration.safetensors   intervals and familiarity, and the record of how they were made; not in
                    every checkpoint
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file

from ma_agiqa.checkpoints.card import ModelCard
from ma_agiqa.errors import CheckpointError, MAAGIQAError
from ma_agiqa.files import json_text, replace_folder, sha256, write_whole
from ma_agiqa.networks.calibration import Calibration
from ma_agiqa.networks.exact_loading import load_exactly
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig
from ma_agiqa.settings import from_mapping, read_yaml, to_mapping

WEIGHTS, SPLIT = "model.safetensors", "split.csv"
_CONFIG, _METRICS, _HISTORY = "config.yaml", "metrics.json", "history.csv"
_CALIBRATION = "calibration.safetensors"
_FILES = frozenset((WEIGHTS, SPLIT, _CONFIG, _METRICS, _HISTORY, _CALIBRATION))


def other_files(folder: str | os.PathLike[str]) -> list[str]:
    """Names in a folder that are not those of a checkpoint, which would be lost with it."""
    folder = Path(folder)
    return sorted({p.name for p in folder.iterdir()} - _FILES) if folder.is_dir() else []


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a checkpoint."""
    return (Path(folder) / WEIGHTS).is_file()


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: MAAGIQA,
    card: ModelCard,
    split_rows: Iterable[tuple[str, str]] = (),
    history: Sequence[Mapping[str, float]] = (),
) -> Path:
    """Write a checkpoint folder, in one step: a crash leaves the old one or none.

    Args:
        folder: where it goes; it is replaced if it exists.
        model: the trained scorer.
        card: the card that travels with it; a calibration is for `save_calibration`.
        split_rows: (image name, part) of every image.
        history: one mapping per epoch, all with the same names; without any, the file is left out.
    """
    folder = Path(folder).absolute()
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    values = dataclasses.asdict(card)
    metrics, _ = values.pop("metrics"), values.pop("calibration")
    values["mos_quantiles"] = list(card.mos_quantiles)
    document = {"card": values, "scorer": to_mapping(model.config)}
    with replace_folder(folder) as part:
        save_file(state, part / WEIGHTS)
        (part / _CONFIG).write_text(yaml.safe_dump(document, sort_keys=False, width=100))
        (part / _METRICS).write_text(json_text(metrics))
        with open(part / SPLIT, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("image", "part"), *split_rows])
        if history:
            with open(part / _HISTORY, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(history)
    return folder


def save_metrics(folder: str | os.PathLike[str], metrics: Mapping[str, Any]) -> None:
    """Write what was measured into a checkpoint folder that is there.

    Raises:
        DataError: the file cannot be written.
    """
    write_whole(Path(folder) / _METRICS, json_text(metrics))


def save_calibration(
    folder: str | os.PathLike[str], calibration: Calibration, record: Mapping[str, Any]
) -> None:
    """Write a calibration into the folder of the checkpoint that it is of.

    Args:
        folder: the checkpoint's folder.
        calibration: its numbers.
        record: how they were made; "weights_sha256" is the hash of the checkpoint's weights.

    Raises:
        DataError: the file cannot be written.
    """
    numbers = {name: value.contiguous() for name, value in calibration.state_dict().items()}
    header = {"nearest": str(calibration.nearest), "record": json_text(record)}
    write_whole(Path(folder) / _CALIBRATION, save(numbers, header))


def load_calibration(folder: str | os.PathLike[str]) -> tuple[Calibration, dict[str, Any]] | None:
    """Read the calibration of a checkpoint folder and its record; None if there is none.

    Raises:
        CheckpointError: it is damaged, or of other weights than those of the folder.
    """
    path = Path(folder) / _CALIBRATION
    if not path.is_file():
        return None
    advice = f"Remove the file; `python -m ma_agiqa calibrate {folder}` makes another."
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
            numbers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = dict(json.loads(header["record"]))
        calibration = Calibration(numbers, int(header["nearest"]))
        made_for = record["weights_sha256"]
    except (CheckpointError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"The calibration {path} cannot be read: {error}. {advice}"
        ) from error
    if made_for != (found := sha256(Path(folder) / WEIGHTS)):
        raise CheckpointError(
            f"The calibration {path} is of other weights ({made_for[:12]}) than those next to it "
            f"({found[:12]}). {advice}"
        )
    return calibration, record


def scorer_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings of the scorer in a checkpoint folder; none where there is no such folder."""
    path = Path(folder) / _CONFIG
    return dict(read_yaml(path)["scorer"]) if path.is_file() else {}


def load_folder(folder: str | os.PathLike[str]) -> tuple[MAAGIQA, ModelCard]:
    """Read a checkpoint folder.

    Returns:
        The scorer in evaluation mode, on the CPU, and its card.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the settings;
            the message lists the names.
    """
    folder = Path(folder)
    if missing := [n for n in (WEIGHTS, _CONFIG, _METRICS) if not (folder / n).is_file()]:
        raise CheckpointError(
            f"{folder} is no checkpoint folder: {', '.join(missing)} missing. "
            "Give the folder that `python -m ma_agiqa train` wrote."
        )
    try:
        document = read_yaml(folder / _CONFIG)
        # what is not defined was once written as NaN
        metrics = json.loads((folder / _METRICS).read_text(), parse_constant=lambda _: None)
        known = load_calibration(folder)
        more = {"metrics": metrics, "calibration": known[1] if known else {}}
        card = from_mapping(ModelCard, {**document["card"], **more}, "card")
        model = MAAGIQA(from_mapping(MAAGIQAConfig, document["scorer"], "scorer"))
        state = load_file(folder / WEIGHTS)
        load_exactly(model, state)
    except (MAAGIQAError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint in {folder} cannot be read: {error}") from error
    return model.eval(), card
