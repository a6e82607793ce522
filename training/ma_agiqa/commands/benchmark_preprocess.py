"""`python -m ma_agiqa benchmark preprocess`."""

import os
import re
from pathlib import Path

import click

from ma_agiqa.benchmark.official import OfficialPreprocess
from ma_agiqa.benchmark.preprocess import (
    OfficialSpeed,
    PreprocessSpeed,
    generated_file,
    measure_official,
    measure_preprocess,
)
from ma_agiqa.commands._official_options import official_option, official_python_option
from ma_agiqa.commands._shared import Command
from ma_agiqa.errors import ConfigError

__all__ = ["preprocess"]

_GENERATED = 8
_EPILOG = """\b
Examples:
  python -m ma_agiqa benchmark preprocess examples/*.jpg
  python -m ma_agiqa benchmark preprocess --size 1024x1024 --format PNG
  python -m ma_agiqa benchmark preprocess --size 512x512 --official MA-AGIQA
"""


@click.command(cls=Command, epilog=_EPILOG)
@click.argument("images", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--size",
    metavar="WIDTHxHEIGHT",
    help=f"Instead of images: {_GENERATED} generated ones of this size.",
)
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["JPEG", "PNG", "WEBP"]),
    default="JPEG",
    show_default=True,
    help="Of generated images.",
)
@click.option("--semantic-size", type=click.IntRange(min=1), default=448, show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=os.cpu_count(),
    show_default="the cores",
    help="That prepare a batch side by side.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@official_option
@official_python_option
def preprocess(
    images: tuple[Path, ...],
    size: str | None,
    image_format: str,
    semantic_size: int,
    threads: int,
    rounds: int,
    official: Path | None,
    official_python: str,
) -> None:
    """Time the way from image files to both views.

    Beside it every file is decoded twice: with OpenCV for the quality view, with Pillow for the
    semantic view. With --official the authors' own code takes turns with ours, up to the normalized
    floats that the networks take.
    """
    files = [path.read_bytes() for path in images]
    if bool(files) == bool(size):
        raise ConfigError("Give image files, or --size WIDTHxHEIGHT for generated ones.")
    if size:
        files = _generate(size, image_format)
    click.echo(_summary(measure_preprocess(files, semantic_size, threads, rounds)))
    if official:
        with OfficialPreprocess(official_python, official, semantic_size) as process:
            click.echo(_comparison(measure_official(files, semantic_size, process, rounds)))


def _generate(size: str, image_format: str) -> list[bytes]:
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size)
    if not match:
        raise ConfigError(f"--size {size}: write WIDTHxHEIGHT in pixels, such as 1024x1024.")
    width, height = map(int, match.groups())
    return [generated_file(width, height, image_format, seed) for seed in range(_GENERATED)]


def _summary(speed: PreprocessSpeed) -> str:
    once, pool, twice = (
        f"{1000 * value:.2f} ms/image, {1 / value:,.0f} images/s"
        for value in (
            speed.seconds_per_image,
            speed.pooled_seconds_per_image,
            speed.twice_seconds_per_image,
        )
    )
    return (
        f"images    {speed.images} of {speed.megapixels:.2f} megapixels, "
        f"{speed.equal_images} with the same pixels both ways\n"
        f"once      {once}: {1000 * speed.decode_s:.2f} decoding, "
        f"{1000 * speed.quality_s:.2f} quality view, {1000 * speed.semantic_s:.2f} semantic view\n"
        f"pool      {pool}, on {speed.threads} threads\n"
        f"twice     {twice}, decoded by OpenCV and by Pillow\n"
        f"ratio     {speed.twice_seconds_per_image / speed.seconds_per_image:.2f} one by one, "
        f"{speed.twice_seconds_per_image / speed.pooled_seconds_per_image:.2f} with the pool\n"
        f"memory    {speed.peak_memory_bytes / 2**30:.2f} GiB at most"
    )


def _comparison(speed: OfficialSpeed) -> str:
    theirs = speed.quality_s + speed.semantic_s
    as_run = theirs + speed.semantic_s
    return (
        f"official  {1000 * theirs:.2f} ms/image: {1000 * speed.quality_s:.2f} for MANIQA, "
        f"{1000 * speed.semantic_s:.2f} for mPLUG-Owl2, which is made for each of two prompts\n"
        f"ours      {1000 * speed.ours_s:.2f} ms/image by turns, one by one: "
        f"{theirs / speed.ours_s:.2f}x faster, {as_run / speed.ours_s:.2f}x for both prompts\n"
        f"inputs    largest difference {speed.largest_difference:.1e}"
    )
