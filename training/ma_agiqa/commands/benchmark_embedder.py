"""Command line of the embedder's benchmark."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from ma_agiqa.benchmark.embedder import (
    compare,
    comparison_text,
    load,
    measure_batch,
    profile_text,
    text_of,
)
from ma_agiqa.benchmark.machine import describe, use_threads
from ma_agiqa.benchmark.random_weights import write_random_weights
from ma_agiqa.commands._official_options import official_option
from ma_agiqa.commands._several_values import Several, SeveralCommand
from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config
from ma_agiqa.lmm.mplug_owl2.loading import FLOATS, compute_dtype
from ma_agiqa.lmm.sources import (
    DEMO_EMBEDDER,
    DTYPE_ALIASES,
    DTYPES,
    PAPER_EMBEDDER,
    embedder_config,
)

__all__ = ["device_option", "dtype_choice", "embedder", "long_name", "threads_option"]

_F = TypeVar("_F", bound=Callable[..., Any])

_EPILOG = """\b
Examples:
  python -m ma_agiqa benchmark embedder
  python -m ma_agiqa benchmark embedder --preset paper --random-weights --batch 1 4
  python -m ma_agiqa benchmark embedder --owl weights/mplug-owl2-llama2-7b --dtype int8
  python -m ma_agiqa benchmark embedder --preset paper --random-weights --layers 8 \\
      --official ~/MA-AGIQA --official-python ~/owl-env/bin/python
"""

dtype_choice = click.Choice([*DTYPE_ALIASES, *DTYPES])
"""Formats of the weights, under their long and their short names."""


def long_name(dtype: str) -> str:
    """The name of a format that the package uses."""
    return DTYPE_ALIASES.get(dtype, dtype)


def device_option(function: _F) -> _F:
    """Add `--device`."""
    return click.option(
        "--device", default="cpu", show_default=True, help="Where to run: cpu, cuda or cuda:1."
    )(function)


def threads_option(function: _F) -> _F:
    """Add `--threads`."""
    return click.option(
        "--threads", type=click.IntRange(min=1), help="Of the CPU. Default: one for each core."
    )(function)


@click.command(cls=SeveralCommand, epilog=_EPILOG)
@click.option(
    "--preset",
    type=click.Choice(["demo", "paper"]),
    default="demo",
    show_default=True,
    help="Size of the model.",
)
@click.option("--owl", metavar="SOURCE", help="Hub id or folder of mPLUG-Owl2 to load.")
@click.option(
    "--random-weights",
    is_flag=True,
    help="Make weights of the preset's size (16.4 GB of disk for the paper's in 16 bits); in the "
    "folder --owl if it is given and empty, else in a temporary one.",
)
@click.option(
    "--layers",
    type=click.IntRange(min=1),
    help="With --random-weights: only so many decoder layers, and the other parts' in proportion.",
)
@click.option("--dtype", type=dtype_choice, default="bf16", show_default=True, help="Of weights.")
@click.option(
    "--batch",
    "batches",
    cls=Several,
    type=click.IntRange(min=1),
    default=(1,),
    show_default=True,
    metavar="N...",
    help="Images of a pass; several may be given. The first is compared and profiled.",
)
@device_option
@threads_option
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Passes to time."
)
@click.option("--profile", is_flag=True, help="Say which operations take the time of a pass.")
@official_option
@click.option(
    "--official-python",
    metavar="PYTHON",
    help="Interpreter of its environment (transformers 4.31).",
)
def embedder(
    preset: str,
    owl: str | None,
    random_weights: bool,
    layers: int | None,
    dtype: str,
    batches: tuple[int, ...],
    device: str,
    threads: int | None,
    rounds: int,
    profile: bool,
    official: Path | None,
    official_python: str | None,
) -> None:
    """Time the embedding model, beside bare matrix products and beside the authors' code.

    Counts operations, and says how many per second were reached, next to what this machine does in
    bare matrix products of the same shapes.
    """
    use_threads(threads)
    dtype = long_name(dtype)
    if (official is None) != (official_python is None):
        raise ConfigError("--official and --official-python belong together: give both.")
    if official is not None and dtype not in FLOATS:
        raise ConfigError(f"--official: the authors' code has no {dtype}. Choose a 16-bit dtype.")
    with _weights(preset, owl, random_weights, layers, dtype, device) as source:
        if official is not None and not Path(source).is_dir():
            raise ConfigError("--official needs weights in a folder: give --owl FOLDER.")
        click.echo(f"machine  {describe(device)}")
        loaded = load(source, dtype, device)
        speeds = [measure_batch(loaded, size, rounds) for size in batches]
        click.echo(text_of(loaded, speeds))
        if profile:
            click.echo(profile_text(loaded, batches[0]))
        if official is not None and official_python is not None:
            made = compare(loaded, Path(source), official, official_python, batches[0], rounds)
            click.echo(comparison_text(made))


@contextmanager
def _weights(
    preset: str, owl: str | None, random: bool, layers: int | None, dtype: str, device: str
) -> Iterator[str]:
    """Settle where the weights come from; temporary ones are removed afterwards."""
    if not random:
        if layers is not None:
            raise ConfigError("--layers cuts random weights: give --random-weights too.")
        yield owl or (PAPER_EMBEDDER if preset == "paper" else DEMO_EMBEDDER)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(owl or temporary)
        if not (folder / "config.json").exists():
            config = MPlugOwl2Config() if preset == "paper" else embedder_config(DEMO_EMBEDDER)
            config = config if layers is None else _cut(config, layers)
            write_random_weights(config, folder, compute_dtype(dtype, device))
        yield str(folder)


def _cut(config: MPlugOwl2Config, layers: int) -> MPlugOwl2Config:
    """The same widths with fewer layers, the parts in proportion."""
    share = layers / config.num_hidden_layers
    parts = {"visual_model": config.vision, "visual_abstractor": config.abstractor}
    visual = {
        name: {**vars(part), "num_hidden_layers": max(1, round(share * part.num_hidden_layers))}
        for name, part in parts.items()
    }
    sizes = {"num_hidden_layers": layers, "visual_config": visual}
    return MPlugOwl2Config(**{**config.to_dict(), **sizes})
