"""`python -m ma_agiqa benchmark`: measure how fast the package is, see `ma_agiqa.benchmark`."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import pandas as pd
import torch

from ma_agiqa.benchmark import dtypes, embedder, preprocess, scorer
from ma_agiqa.benchmark.machine import Row, describe, use_threads
from ma_agiqa.benchmark.random_weights import cut_layers, write_random_weights
from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.commands._shared import HELP_WIDTH, Command
from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config
from ma_agiqa.lmm.mplug_owl2.loading import compute_dtype
from ma_agiqa.lmm.sources import (
    DEMO_EMBEDDER,
    DTYPE_ALIASES,
    DTYPES,
    PAPER_EMBEDDER,
    embedder_config,
)
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

_F = TypeVar("_F", bound=Callable[..., Any])

_DEMO_CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "demo"
_SCORER_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "exact": None,
}
_GENERATED_IMAGES = 8
_COUNT = click.IntRange(min=1)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DTYPE = click.Choice([*DTYPE_ALIASES, *DTYPES])


def _prepare(device: str, threads: int | None) -> None:
    """Set the number of threads, and refuse a GPU that is not there."""
    use_threads(threads)
    cuda, _, index = device.partition(":")
    if cuda == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {device}: torch sees no such GPU here. Leave it out to use the CPU."
        )


_device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where to run: cpu, cuda or cuda:1.",
)
_threads_option = click.option(
    "--threads",
    type=_COUNT,
    help="Number of CPU threads. Default: one for each core.",
)


def _rounds_option(default: int) -> Callable[[_F], _F]:
    return click.option(
        "--rounds",
        type=_COUNT,
        default=default,
        show_default=True,
        help="Number of times that everything is timed; the median is reported.",
    )


def _network_options(preset: str) -> Callable[[_F], _F]:
    """Add what the embedder's and the scorer's benchmark have in common."""
    size = click.option(
        "--preset",
        type=click.Choice(["demo", "paper"]),
        default=preset,
        show_default=True,
        help="Size of the network.",
    )
    batch = click.option(
        "--batch",
        "batches",
        type=_COUNT,
        multiple=True,
        default=[1],
        show_default="1",
        help="Number of images in a pass; repeatable.",
    )
    return lambda function: size(
        batch(_device_option(_threads_option(_rounds_option(3)(function))))
    )


def _print(rows: Iterable[Row]) -> None:
    """Print a table with a column for each row, headed by the first entry."""
    frame = pd.DataFrame(list(rows)).map(lambda x: x if isinstance(x, str) else f"{x:.5g}")
    click.echo(frame.replace("nan", "").T.to_string(header=False))


@click.group(context_settings=HELP_WIDTH)
def main() -> None:
    """Measure how fast this package is on this machine."""


@main.command(
    "embedder",
    cls=Command,
    epilog="""\b
Examples:
  python -m ma_agiqa benchmark embedder
  python -m ma_agiqa benchmark embedder --preset paper --random-weights --batch 1 --batch 4
  python -m ma_agiqa benchmark embedder --embedder weights/mplug-owl2-llama2-7b --dtype int8
""",
)
@_network_options("demo")
@click.option("--embedder", "source", metavar="SOURCE", help="Hub id or folder of mPLUG-Owl2.")
@click.option(
    "--random-weights",
    is_flag=True,
    help="Make weights of the preset's size (16.4 GB of disk for the paper's in 16 bits), in the "
    "folder --embedder if that is given and empty, else in a temporary one.",
)
@click.option(
    "--layers",
    type=_COUNT,
    help="With --random-weights: number of decoder layers; the other parts are cut in proportion.",
)
@click.option(
    "--dtype", type=_DTYPE, default="bf16", show_default=True, help="Dtype of the weights."
)
@click.option("--profile", is_flag=True, help="List the slowest operations of a pass.")
def embedder_command(
    preset: str,
    source: str | None,
    random_weights: bool,
    layers: int | None,
    dtype: str,
    batches: tuple[int, ...],
    device: str,
    threads: int | None,
    rounds: int,
    profile: bool,
) -> None:
    """Time the embedder (mPLUG-Owl2).

    Counts the operations, and compares their rate with that of bare matrix products of the same
    shapes on this machine.
    """
    _prepare(device, threads)
    dtype = DTYPE_ALIASES.get(dtype, dtype)
    with _weights(preset, source, random_weights, layers, dtype, device) as weights:
        click.echo(f"machine  {describe(device)}")
        network, loading = embedder.load(weights, dtype, device)
        _print([{"weights in": dtype, **loading}])
        speeds = [embedder.measure_batch(network, dtype, batch, rounds) for batch in batches]
        _print(speeds)
        if any(float(speed[embedder.READ]) > 0.1 for speed in speeds):
            click.echo("Weights were read from disk in timed passes: free some memory.", err=True)
        if profile:
            click.echo(embedder.profile(network, batches[0]))


@contextmanager
def _weights(
    preset: str, source: str | None, random: bool, layers: int | None, dtype: str, device: str
) -> Iterator[str]:
    """Decide where the weights come from; temporary ones are removed afterwards."""
    if not random:
        if layers is not None:
            raise ConfigError("--layers shortens random weights: give --random-weights, too.")
        yield source or (PAPER_EMBEDDER if preset == "paper" else DEMO_EMBEDDER)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(source or temporary)
        if not (folder / "config.json").exists():
            config = MPlugOwl2Config() if preset == "paper" else embedder_config(DEMO_EMBEDDER)
            config = config if layers is None else cut_layers(config, layers)
            write_random_weights(config, folder, compute_dtype(dtype, device))
        yield str(folder)


@main.command(
    "dtypes",
    cls=Command,
    epilog="""\b
Examples:
  python -m ma_agiqa benchmark dtypes my_images/*.png
  python -m ma_agiqa benchmark dtypes --embedder weights/mplug-owl2-llama2-7b \\
      --checkpoint AGIQA_3k.pt --reference bf16 --dtype int8 --dtype int4 my_images/*.png
""",
)
@click.argument("images", nargs=-1, required=True, type=_FILE)
@click.option(
    "--embedder",
    "source",
    default=DEMO_EMBEDDER,
    show_default=True,
    help="Hub id or folder of mPLUG-Owl2.",
)
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, path_type=Path),
    help="Scorer: a checkpoint folder, or a .pt file of the authors. Without it, only embeddings "
    "are compared.",
)
@click.option(
    "--reference",
    type=_DTYPE,
    help="Dtype to compare with. Default: fp32 for the demo, else bf16 on a CPU and fp16 on a GPU.",
)
@click.option(
    "--dtype",
    "others",
    type=_DTYPE,
    multiple=True,
    default=["bf16", "int8", "int4"],
    show_default=True,
    help="Dtype to compare; repeatable.",
)
@click.option(
    "--accept-changes",
    is_flag=True,
    help="End with status 0 even if quantized weights change scores by more than the limits.",
)
@_device_option
@_threads_option
def dtypes_command(
    images: tuple[Path, ...],
    source: str,
    checkpoint: Path | None,
    reference: str | None,
    others: tuple[str, ...],
    accept_changes: bool,
    device: str,
    threads: int | None,
) -> None:
    """Compare dtypes of the embedder on your own images: memory, time, embeddings, scores.

    With a scorer and 20 images or more, quantized weights have to keep the scores: Pearson
    correlation of at least 0.99, 95 % of the pairs in the same order, 80 % of the best fifth of
    the images, and no score changed by more than 0.25. Else the command fails.
    """
    _prepare(device, threads)
    if reference is None:
        wide = "fp16" if device.startswith("cuda") else "bf16"
        reference = "fp32" if source == DEMO_EMBEDDER else wide
    names = [DTYPE_ALIASES.get(dtype, dtype) for dtype in (reference, *others)]
    network = None if checkpoint is None else load_scorer(checkpoint)[0]
    files = [path.read_bytes() for path in images]
    click.echo(f"machine  {describe(device)}; {len(images)} images, against {reference}")
    rows = list(dtypes.measure_dtypes(files, source, network, names, device))
    _print(rows)
    if network is None:
        return
    if len(images) < dtypes.FEWEST_IMAGES:
        click.echo(f"Not judged: give {dtypes.FEWEST_IMAGES} images or more.", err=True)
    elif (refused := dtypes.refusals(rows)) and not accept_changes:
        advice = "Serve a 16-bit dtype, or give --accept-changes if that is enough for you."
        raise ConfigError(" ".join([*refused, advice]))


@main.command(
    "scorer",
    cls=Command,
    epilog="""\b
Examples:
  python -m ma_agiqa benchmark scorer --random-weights --dtype bf16 --batch 1 --batch 8
  python -m ma_agiqa benchmark scorer --preset demo --dtype fp32
  python -m ma_agiqa benchmark scorer --checkpoint AGIQA_3k.pt --dtype bf16
""",
)
@_network_options("paper")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights, if not the preset's.")
@click.option("--random-weights", is_flag=True, help="Make weights of the preset's size.")
@click.option(
    "--dtype",
    type=click.Choice(list(_SCORER_DTYPES)),
    default="fp32",
    show_default=True,
    help="Dtype of the fast arithmetic; exact: float32 in the order of the authors' code.",
)
def scorer_command(
    preset: str,
    checkpoint: Path | None,
    random_weights: bool,
    dtype: str,
    batches: tuple[int, ...],
    device: str,
    threads: int | None,
    rounds: int,
) -> None:
    """Time the scorer (MANIQA and the fusion); compare its scores with the exact arithmetic."""
    _prepare(device, threads)
    network = _scorer(preset, checkpoint, random_weights, torch.device(device))
    click.echo(f"machine  {describe(device)}, {dtype}")
    _print(scorer.measure_scorer(network, batches, _SCORER_DTYPES[dtype], rounds))


def _scorer(preset: str, checkpoint: Path | None, random: bool, device: torch.device) -> MAAGIQA:
    if checkpoint is not None or (preset == "demo" and not random):
        return load_scorer(checkpoint or _DEMO_CHECKPOINT)[0].to(device)
    if not random:
        raise ConfigError(
            "The paper's scorer needs weights: give --checkpoint, or --random-weights, which cost "
            "the same time."
        )
    config = MAAGIQAConfig() if preset == "paper" else load_scorer(_DEMO_CHECKPOINT)[0].config
    network = scorer.random_scorer(config, device)
    by_pictures = scorer.picture_deviation(network, device)
    click.echo(f"weights  random; scores deviate by 1, by pictures alone by {by_pictures:.2g}")
    return network


@main.command(
    "preprocess",
    cls=Command,
    epilog="""\b
Examples:
  python -m ma_agiqa benchmark preprocess examples/*.jpg
  python -m ma_agiqa benchmark preprocess --size 1024x1024 --format PNG
""",
)
@click.argument("images", nargs=-1, type=_FILE)
@click.option(
    "--size",
    metavar="WIDTHxHEIGHT",
    help=f"Instead of images: {_GENERATED_IMAGES} generated ones of this size.",
)
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["JPEG", "PNG", "WEBP"]),
    default="JPEG",
    show_default=True,
    help="File format of generated images.",
)
@click.option(
    "--semantic-size",
    type=_COUNT,
    default=448,
    show_default=True,
    help="Side of the semantic view in pixels.",
)
@click.option(
    "--threads",
    type=_COUNT,
    default=os.cpu_count(),
    show_default="the cores",
    help="Number of threads that prepare images in parallel.",
)
@_rounds_option(5)
def preprocess_command(
    images: tuple[Path, ...],
    size: str | None,
    image_format: str,
    semantic_size: int,
    threads: int,
    rounds: int,
) -> None:
    """Time decoding and both views of image files.

    Compares it with decoding every file twice, as the authors' code does: with OpenCV for the
    quality view and with Pillow for the semantic view.
    """
    files = [path.read_bytes() for path in images]
    if bool(files) == bool(size):
        raise ConfigError("Give image files, or --size WIDTHxHEIGHT for generated ones.")
    if size:
        files = _generate(size, image_format)
    equal = preprocess.count_equal(files, semantic_size)
    click.echo(f"{len(files)} images, {equal} with the same pixels both ways")
    _print(preprocess.measure_preprocess(files, semantic_size, threads, rounds))


def _generate(size: str, image_format: str) -> list[bytes]:
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size)
    if not match:
        raise ConfigError(f"--size {size}: write WIDTHxHEIGHT in pixels, such as 1024x1024.")
    width, height = map(int, match.groups())
    seeds = range(_GENERATED_IMAGES)
    return [preprocess.generated_file(width, height, image_format, seed) for seed in seeds]
