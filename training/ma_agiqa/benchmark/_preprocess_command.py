"""`python -m ma_agiqa.benchmark preprocess`."""

import os
import re
from pathlib import Path

import click

from ma_agiqa._command import Command
from ma_agiqa.benchmark.preprocess import PreprocessSpeed, generated_file, measure_preprocess
from ma_agiqa.errors import ConfigError

__all__ = ["preprocess"]

_GENERATED = 8
_EPILOG = """\b
Examples:
  python -m ma_agiqa.benchmark preprocess examples/*.jpg
  python -m ma_agiqa.benchmark preprocess --size 1024x1024 --format PNG
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
def preprocess(
    images: tuple[Path, ...],
    size: str | None,
    image_format: str,
    semantic_size: int,
    threads: int,
    rounds: int,
) -> None:
    """Time the way from image files to both views.

    Beside it runs the way of the authors' code, which decodes every file twice: with OpenCV for
    the quality view, with Pillow for the semantic view.
    """
    files = [path.read_bytes() for path in images]
    if bool(files) == bool(size):
        raise ConfigError("Give image files, or --size WIDTHxHEIGHT for generated ones.")
    if size:
        files = _generate(size, image_format)
    click.echo(_summary(measure_preprocess(files, semantic_size, threads, rounds)))


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
