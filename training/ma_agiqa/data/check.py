"""Check a data set before training."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import thread_map

from ma_agiqa.data.settings import DataSettings, read_images
from ma_agiqa.data.splits import Split, SplitSettings, make_split, prompt_key
from ma_agiqa.data.table import RatedImage
from ma_agiqa.errors import DataError, ImageError
from ma_agiqa.images.views import decode

_SHOWN = 20
_BARS, _BAR_WIDTH = 10, 40


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        facts: counts and distributions, a line each.
        warnings: what may be intended, but changes what the numbers mean.
        problems: what would stop a run; a sentence each, with file and row.
    """

    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    def text(self) -> str:
        """The report for people."""
        return "\n".join([*self.facts, *_section("Warnings", self.warnings),
                          *_section("Problems", self.problems)])  # fmt: skip


def check(
    data: DataSettings,
    settings: SplitSettings,
    obstacles: Callable[[Split], Iterable[str]],
    workers: int = 4,
    progress: bool = False,
) -> Report:
    """Read the table, decode every image and divide them.

    Args:
        data, settings: sections `data` and `split` of a config.
        obstacles: finds what would keep a training on a split from being finished.
        workers: number of threads that decode.
        progress: show a bar on stderr.
    """
    try:
        images = read_images(data)
    except DataError as error:
        return Report((), (), (str(error),))
    hashes, problems = _read_all(images, workers, progress)
    facts, warnings = list(_describe(images, data)), list(_equal_files(images, hashes))
    try:
        split = make_split(images, settings)
    except DataError as error:
        return Report(tuple(facts), tuple(warnings), (*problems, str(error)))
    facts += _describe_split(split, settings)
    warnings += [*_leaks(split, hashes), *_without_group(images, data)]
    problems += obstacles(split)
    return Report(tuple(facts), tuple(warnings), tuple(problems))


def _read_all(
    images: Sequence[RatedImage], workers: int, progress: bool
) -> tuple[dict[str, str], list[str]]:
    """Hashes of the files by image name, and what is wrong with those that cannot be decoded."""
    paths, how = [image.path for image in images], {"desc": "images", "unit": "image"}
    found = thread_map(_read, paths, max_workers=workers, disable=not progress, **how)
    hashes = {image.name: digest for image, (digest, _) in zip(images, found, strict=True)}
    problems = [
        f"row {image.row}, {image.name}: {problem}"
        for image, (_, problem) in zip(images, found, strict=True)
        if problem
    ]
    return hashes, problems


def _read(path: Path) -> tuple[str, str | None]:
    try:
        content = path.read_bytes()
        decode(content)
    except OSError as error:
        return "", f"cannot be read: {error.strerror}."
    except ImageError as error:
        return "", str(error)
    return hashlib.sha256(content).hexdigest(), None


def _describe(images: Sequence[RatedImage], data: DataSettings) -> Iterator[str]:
    mos = np.array([image.mos for image in images])
    yield f"{data.name}: {len(images)} images in {data.csv}"
    yield (
        f"MOS: {mos.min():.3f} to {mos.max():.3f}, mean {mos.mean():.3f}, "
        f"standard deviation {mos.std():.3f}; possible {data.mos_range[0]} to {data.mos_range[1]}"
    )
    counts, edges = np.histogram(mos, _BARS, data.mos_range)
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        bar = "#" * round(_BAR_WIDTH * count / counts.max())
        yield f"  {low:5.2f} - {high:5.2f} {count:6d} {bar}".rstrip()
    yield f"Prompts: {_distinct(image.prompt for image in images)}"
    generators = Counter(image.generator for image in images if image.generator)
    yield f"Generators: {_distinct(image.generator for image in images)}"
    for name, count in sorted(generators.items()):
        yield f"  {name}: {count}"
    for subset in data.subsets:
        found = sum(subset.holds(image.prompt, image.generator) for image in images)
        yield f"Subset {subset.name!r}: {found}"


def _distinct(values: Iterable[str | None]) -> str:
    given = [value for value in values if value is not None]
    return f"{len(set(given))} different, given for {len(given)} images"


def _equal_files(images: Sequence[RatedImage], hashes: dict[str, str]) -> Iterator[str]:
    same = defaultdict(list)
    for image in images:
        if hashes[image.name]:
            same[hashes[image.name]].append(image)
    repeated = [members for members in same.values() if len(members) > 1]
    if repeated:
        yield f"{len(repeated)} files occur under several names:"
        for members in repeated[:_SHOWN]:
            yield "  " + ", ".join(f"{i.name} (row {i.row}, MOS {i.mos:.3f})" for i in members)


def _describe_split(split: Split, settings: SplitSettings) -> Iterator[str]:
    yield f"Split {settings.kind!r}:"
    for part, members in split.items():
        mos = np.array([image.mos for image in members])
        yield f"  {part}: {len(members)} images, mean MOS {mos.mean():.3f}"
    yield f"  sha256 {split.sha256()}"


def _leaks(split: Split, hashes: dict[str, str]) -> Iterator[str]:
    """What the test part shares with the images that the model is made from."""
    seen = (*split.train, *split.validation)
    prompts = {prompt_key(image.prompt) for image in seen if image.prompt}
    shared = sum(prompt_key(image.prompt) in prompts for image in split.test if image.prompt)
    if shared:
        yield (
            f"{shared} of {len(split.test)} test images ({shared / len(split.test):.1%}) have a "
            "prompt that is also in the train or validation part; `split.kind: prompt-disjoint` "
            "avoids it."
        )
    known = {hashes[image.name] for image in seen if hashes[image.name]}
    copies = [image for image in split.test if hashes[image.name] in known]
    if copies:
        yield (
            f"{len(copies)} test images are also in the train or validation part under another "
            f"name, such as {copies[0].name} (row {copies[0].row})."
        )


def _without_group(images: Sequence[RatedImage], data: DataSettings) -> Iterator[str]:
    alone = [image for image in images if image.group == image.name]
    if data.columns.group and alone:
        yield (
            f"{len(alone)} images have no {data.columns.group!r} (data.columns.group), such as "
            f"{alone[0].name} (row {alone[0].row}); in a split each of them stands alone."
        )


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"\n{title}:"
        yield from (f"  {line}" for line in lines[:_SHOWN])
        if len(lines) > _SHOWN:
            yield f"  ... {len(lines) - _SHOWN} more"
