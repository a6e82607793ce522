"""Division of rated images into a train, a validation and a test part (paper §4.1)."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ma_agiqa.data.table import FIRST_ROW, RatedImage, listed, read_csv
from ma_agiqa.errors import ConfigError, DataError

PARTS = ("train", "validation", "test")

SPLIT_KINDS = ("paper", "prompt-disjoint", "group-disjoint", "k-fold", "file")


@dataclass(frozen=True)
class SplitSettings:
    """How images are divided.

    Attributes:
        kind: "paper": rows shuffled and cut as the authors' code does, regardless of prompts;
            "prompt-disjoint": no prompt in two parts;
            "group-disjoint": no value of `data.columns.group` in two parts;
            "k-fold": the test part is one of `folds` equal parts; groups stay together;
            "file": parts read from `file`.
        seed: seed of the shuffle.
        validation, test: shares of the images for "paper", of prompts or groups otherwise. The
            test share of a fold is 1 / folds.
        folds, fold: number of folds, and which of them is the test part, from 0.
        file: a table with the columns image and part, such as a run's split.csv.
    """

    kind: str
    seed: int = 20
    validation: float = 0.1
    test: float = 0.2
    folds: int = 5
    fold: int = 0
    file: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in SPLIT_KINDS:
            raise ConfigError(f"split.kind is {self.kind!r}; choose one of {SPLIT_KINDS}.")
        if (self.file is not None) != (self.kind == "file"):
            raise ConfigError("split.file goes with split.kind 'file', and with no other kind.")
        if self.kind == "k-fold":
            if not 0 <= self.fold < self.folds or self.folds < 2:
                raise ConfigError(
                    f"split.fold is {self.fold} of {self.folds}; give 0..folds-1 of 2 or more."
                )
            object.__setattr__(self, "test", 1 / self.folds)
        if min(self.validation, self.test) <= 0 or self.validation + self.test >= 1:
            raise ConfigError(
                f"split: validation {self.validation} and test {self.test} must be above 0 and "
                "their sum below 1."
            )

    def setting_of(self, part: str) -> str:
        """Name the settings that decide the size of a part, with their values."""
        if self.kind == "file":
            return f"the parts in split.file ({self.file})"
        if self.kind == "k-fold" and part == "test":
            return f"split.folds ({self.folds})"
        if part == "train":
            return f"split.validation ({self.validation:g}) and split.test ({self.test:g})"
        return f"split.{part} ({getattr(self, part):g})"


@dataclass(frozen=True)
class Split:
    """Images of each part; none occurs twice, and none is left out."""

    train: tuple[RatedImage, ...]
    validation: tuple[RatedImage, ...]
    test: tuple[RatedImage, ...]

    def items(self) -> Iterator[tuple[str, tuple[RatedImage, ...]]]:
        """Pairs of a part's name and its images, in the order of PARTS."""
        for part in PARTS:
            yield part, getattr(self, part)

    def rows(self) -> list[tuple[str, str]]:
        """Pairs (image name, part), as `split.csv` holds them."""
        return [(image.name, part) for part, images in self.items() for image in images]

    def sha256(self) -> str:
        """Hash of the rows; equal for equal splits."""
        text = "\n".join(f"{part}\t{name}" for name, part in self.rows())
        return hashlib.sha256(text.encode()).hexdigest()


def make_split(images: Sequence[RatedImage], settings: SplitSettings) -> Split:
    """Divide images as the settings say.

    Raises:
        DataError: a part would be empty, a prompt or group is needed and unknown, or the file does
            not fit the images.
    """
    if settings.kind == "file":
        return split_from_file(images, str(settings.file))
    if settings.kind == "paper":
        groups, things = [image.name for image in images], "images"
    elif settings.kind == "prompt-disjoint":
        groups, things = _prompts(images), "prompts"
    else:
        groups, things = [image.group for image in images], "groups (data.columns.group)"
    count, by_row = len(set(groups)), settings.kind == "paper"
    if settings.kind == "group-disjoint" and count == len(images):
        raise DataError(
            "split.kind 'group-disjoint' needs groups, but no two images are of one. Name the "
            "column under data.columns.group."
        )
    parts = _by_row(images, settings) if by_row else _by_group(images, groups, settings)
    for part, members in parts.items():
        if not members:
            raise DataError(
                f"split.kind {settings.kind!r} leaves the {part} part empty: "
                f"{count} {things} are too few. Change "
                f"{settings.setting_of(part)}, or split.kind."
            )
    return Split(**parts)


def split_from_file(images: Sequence[RatedImage], path: str | Path) -> Split:
    """Divide images as a table with the columns image and part says.

    Raises:
        DataError: the table cannot be read, names an unknown part or an image twice, or does not
            hold exactly these images.
    """
    part_of = read_parts(Path(path))
    by_name = {image.name: image for image in images}
    if foreign := [name for name in part_of if name not in by_name]:
        raise DataError(
            f"{path} lists {len(foreign)} images that are not in the data set's table, such as "
            f"{foreign[0]}."
        )
    if absent := [image for image in images if image.name not in part_of]:
        raise DataError(
            f"{path} gives no part to {len(absent)} images of the data set, such as "
            f"{absent[0].name} (row {absent[0].row})."
        )
    parts = {
        part: tuple(by_name[name] for name, found in part_of.items() if found == part)
        for part in PARTS
    }
    if empty := [part for part, members in parts.items() if not members]:
        raise DataError(f"{path} gives no image to the {empty[0]} part.")
    return Split(**parts)


def prompt_key(prompt: str) -> str:
    """What makes two prompts the same; case does not."""
    return prompt.lower()


def _by_row(images: Sequence[RatedImage], settings: SplitSettings) -> dict[str, Any]:
    """The paper's split: train, validation and test follow each other in the shuffled rows."""
    shuffled = list(images)
    random.Random(settings.seed).shuffle(shuffled)
    shares = (1 - settings.validation - settings.test, 1 - settings.test)
    first, second = (int(round(share, 9) * len(shuffled)) for share in shares)
    bounds = {"train": (0, first), "validation": (first, second), "test": (second, None)}
    return {part: tuple(shuffled[slice(*bounds[part])]) for part in PARTS}


def _by_group(
    images: Sequence[RatedImage], group_of: Sequence[str], settings: SplitSettings
) -> dict[str, Any]:
    """Shuffle the sorted groups; the test part comes first, or at its fold, then validation."""
    groups = sorted(set(group_of))
    order = np.random.default_rng(settings.seed).permutation(len(groups))
    if settings.kind == "k-fold":
        start = round(settings.fold / settings.folds * len(groups))
        stop = round((settings.fold + 1) / settings.folds * len(groups))
        order = np.concatenate([order[start:stop], order[:start], order[stop:]])
        tested = stop - start
    else:
        tested = round(settings.test * len(groups))
    kept = round((settings.test + settings.validation) * len(groups))
    part_of = {
        groups[index]: "test" if place < tested else "validation" if place < kept else "train"
        for place, index in enumerate(order)
    }
    members: dict[str, list[RatedImage]] = {part: [] for part in PARTS}
    for image, group in zip(images, group_of, strict=True):
        members[part_of[group]].append(image)
    return {part: tuple(found) for part, found in members.items()}


def _prompts(images: Sequence[RatedImage]) -> list[str]:
    """Prompts as groups."""
    if unknown := [image for image in images if image.prompt is None]:
        raise DataError(
            f"split.kind 'prompt-disjoint' needs the prompt of every image; {len(unknown)} have "
            f"none, such as {unknown[0].name} (row {unknown[0].row}). Name the column under "
            "data.columns.prompt."
        )
    return [prompt_key(str(image.prompt)) for image in images]


def read_parts(path: Path) -> dict[str, str]:
    """Read a table of splits: the part of each image, by its name.

    Raises:
        DataError: the table cannot be read, or names an unknown part or an image twice.
    """
    table = read_csv(path, ["image", "part"], "A split needs the columns image and part.")
    parts: dict[str, str] = {}
    problems = []
    for row, (name, part) in enumerate(
        zip(table["image"], table["part"], strict=True), start=FIRST_ROW
    ):
        if part not in PARTS:
            problems.append(f"row {row}: the part is {part!r}; expected one of {PARTS}.")
        elif name in parts:
            problems.append(f"row {row}: {name} is listed more than once.")
        parts[name] = part
    if problems:
        raise DataError(f"{path}: {listed(problems)}")
    return parts
