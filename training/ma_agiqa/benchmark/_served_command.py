"""Command line of the benchmark of serving: `python -m ma_agiqa.benchmark served`."""

import os
from pathlib import Path

import click
import torch

from ma_agiqa._command import Command
from ma_agiqa.benchmark.served import ServedSpeed, measure_served

__all__ = ["served"]

_CLONE = Path(__file__).resolve().parents[3]
_EPILOG = """\b
Examples:
  python -m ma_agiqa.benchmark served
  python -m ma_agiqa.benchmark served --concurrency 1 8 32 --images my_images
  python -m ma_agiqa.benchmark served --url localhost:8001 --repository model_repository
"""


class _Several(click.Option):
    """An option that takes all values up to the next option: `--concurrency 1 8 32`."""

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, multiple=True, **settings)  # type: ignore[arg-type]

    @staticmethod
    def spread(arguments: list[str], names: set[str]) -> list[str]:
        """Write `--name 1 8` as `--name 1 --name 8`."""
        spread, name = [], ""
        for argument in arguments:
            if argument.startswith("-"):
                name = argument if argument in names else ""
                spread += [] if name else [argument]
            else:
                spread += [name, argument] if name else [argument]
        return spread


class _ServedCommand(Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = [option for option in self.params if isinstance(option, _Several)]
        names = {name for option in several for name in option.opts}
        return super().parse_args(ctx, _Several.spread(args, names))


@click.command(cls=_ServedCommand, epilog=_EPILOG)
@click.option(
    "--url", metavar="HOST:PORT", help="A running server's gRPC port; default: start one here."
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=_CLONE / "model_repository",
    show_default="model_repository of this checkout",
    help="What is served; its models are also called in this process.",
)
@click.option(
    "--concurrency",
    "concurrencies",
    cls=_Several,
    type=click.IntRange(min=1),
    default=(1, 8, 32),
    show_default="1 8 32",
    help="How many requests are on their way; several are measured in turn.",
)
@click.option(
    "--images",
    cls=_Several,
    type=click.Path(exists=True, path_type=Path),
    default=(_CLONE / "examples",),
    show_default="examples of this checkout",
    help="Files and folders of images, sent in turn.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="How long each measurement lasts in each round.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How often everything is measured.",
)
def served(
    url: str | None,
    repository: Path,
    concurrencies: tuple[int, ...],
    images: tuple[Path, ...],
    seconds: float,
    rounds: int,
) -> None:
    """Time the served ensemble over gRPC, and the same models in one process, in turn."""
    speed = measure_served(
        repository,
        images,
        concurrencies,
        url,
        seconds,
        rounds,
        say=lambda text: click.echo(text, err=True),
    )
    click.echo(_table(speed))


def _table(speed: ServedSpeed) -> str:
    name = torch.cuda.get_device_name() if speed.device == "cuda" else speed.device
    cores = f"{os.cpu_count()} cores"
    one = speed.one_process
    lines = [
        f"machine      {name}, {cores}, torch {torch.__version__}",
        *([f"start        {speed.start_s:.1f} s"] if speed.start_s is not None else []),
        f"one process  {one.images_per_s:.1f} images/s: {speed.best}",
        "",
        "concurrency  images/s   p50 ms   p95 ms   p99 ms  share of one process",
    ]
    for load in speed.loads:
        latencies = "".join(f"{load.percentile_ms(percent):9.1f}" for percent in (50, 95, 99))
        share = f"{speed.shares[load.concurrency]:.0%}"
        lines.append(f"{load.concurrency:11d}  {load.images_per_s:8.1f}{latencies}  {share}")
    lines += ["", "one process, tried once                  images/s  CPU ms/image"]
    for layout, rate in speed.layouts.items():
        lines.append(f"  {layout!s:36s}{rate.images_per_s:11.1f}{rate.cpu_s * 1000:14.2f}")
    if speed.served_cpu_ms:
        most = speed.loads[-1].concurrency
        lines += ["", f"served, {most} requests at once                         CPU ms/image"]
        spent = {**speed.served_cpu_ms, "all of these": sum(speed.served_cpu_ms.values())}
        spent[f"one process: {speed.best}"] = one.cpu_s * 1000
        lines += [f"  {name:36s}{milliseconds:25.2f}" for name, milliseconds in spent.items()]
    return "\n".join(lines)
