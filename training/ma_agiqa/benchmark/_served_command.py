"""Command line of the benchmarks of serving: `python -m ma_agiqa benchmark served|overload`."""

import os
import sys
from pathlib import Path

import click
import torch

from ma_agiqa.benchmark.overload import Overload, measure_overload
from ma_agiqa.benchmark.served import ServedSpeed, measure_served, read_files
from ma_agiqa.commands._shared import Command

__all__ = ["overload", "served"]

_CLONE = Path(__file__).resolve().parents[3]
_EPILOG = """\b
Examples:
  python -m ma_agiqa benchmark served
  python -m ma_agiqa benchmark served --concurrency 8 --concurrency 32 --images my_images
  python -m ma_agiqa benchmark served --url localhost:8001 --repository model_repository
"""


_url_option = click.option(
    "--url", metavar="HOST:PORT", help="A running server's gRPC port; default: start one here."
)
_repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=_CLONE / "model_repository",
    show_default="model_repository of this checkout",
    help="What is served; `served` calls its models in this process, too.",
)
_images_option = click.option(
    "--images",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    default=(_CLONE / "examples",),
    show_default="examples of this checkout",
    help="File or folder of images, sent in turn; repeatable.",
)


@click.command(cls=Command, epilog=_EPILOG)
@_url_option
@_repository_option
@click.option(
    "--concurrency",
    "concurrencies",
    multiple=True,
    type=click.IntRange(min=1),
    default=(1, 8, 32),
    show_default="1, 8 and 32",
    help="Number of requests in flight; repeatable.",
)
@_images_option
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


@click.command(cls=Command)
@_url_option
@_repository_option
@_images_option
@click.option(
    "--times",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    help="How much more than the measured capacity is sent.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=15.0,
    show_default=True,
    help="How long the capacity is measured, and how long the overload lasts.",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="After how many seconds each answer is not wanted any more.",
)
@click.option(
    "--images-per-request",
    type=click.IntRange(1, 32),
    default=1,
    show_default=True,
    help="As generation servers send them, for a prompt.",
)
@click.option(
    "--share-cores",
    is_flag=True,
    help="Send from the cores of the embedded server; else it leaves one of them to the sender.",
)
@click.option(
    "--min-goodput", type=click.FloatRange(min=0), help="Fail if a smaller share of the capacity."
)
@click.option(
    "--max-refused-p95-ms", type=click.FloatRange(min=0), help="Fail if refusals take longer."
)
@click.option("--max-recovery-s", type=click.FloatRange(min=0), help="Fail if it takes longer.")
def overload(
    url: str | None,
    repository: Path,
    images: tuple[Path, ...],
    times: float,
    seconds: float,
    deadline_s: float,
    images_per_request: int,
    share_cores: bool,
    min_goodput: float | None,
    max_refused_p95_ms: float | None,
    max_recovery_s: float | None,
) -> None:
    """Send a server a multiple of what it can do; see what it still does, and what it refuses.

    The exit status is 1 past a limit.
    """
    measured = measure_overload(
        repository,
        read_files(images),
        url,
        times,
        seconds,
        deadline_s,
        images=images_per_request,
        share_cores=share_cores,
        say=lambda text: click.echo(text, err=True),
    )
    click.echo(_overload_table(measured))
    broken = _broken_limits(measured, min_goodput, max_refused_p95_ms, max_recovery_s)
    for sentence in broken:
        click.echo(f"FAILED    {sentence}")
    if broken:
        sys.exit(1)


def _broken_limits(
    measured: Overload,
    min_goodput: float | None,
    max_refused_p95_ms: float | None,
    max_recovery_s: float | None,
) -> list[str]:
    refused, recovery = measured.refused_p95_ms, measured.recovery_s
    broken = []
    if min_goodput is not None and measured.goodput_share < min_goodput:
        broken.append(f"goodput: {measured.goodput_share:.0%} is less than {min_goodput:.0%}")
    if max_refused_p95_ms is not None and (refused or 0.0) > max_refused_p95_ms:
        broken.append(f"refusals: p95 of {refused:.0f} ms is more than {max_refused_p95_ms:g} ms")
    if max_recovery_s is not None and (recovery is None or recovery > max_recovery_s):
        seen = "not seen" if recovery is None else f"{recovery:.1f} s"
        broken.append(f"recovery: {seen}, and at most {max_recovery_s:g} s is allowed")
    return broken


def _overload_table(measured: Overload) -> str:
    lines = [
        f"capacity  {measured.capacity_images_per_s:.1f} images/s",
        f"sent      {measured.sent_images_per_s:.1f} images/s for {measured.seconds:g} s",
        f"goodput   {measured.goodput_images_per_s:.1f} images/s scored in time: "
        f"{measured.goodput_share:.0%} of the capacity",
        "outcomes  " + ", ".join(f"{n} {outcome}" for outcome, n in measured.outcomes.items()),
    ]
    for name, p95_ms in (("refused", measured.refused_p95_ms), ("scored", measured.scored_p95_ms)):
        lines += [] if p95_ms is None else [f"{name:9s} p95 {p95_ms:.0f} ms"]
    if measured.memory_bytes:
        before, most = (size / 2**20 for size in measured.memory_bytes)
        lines.append(f"memory    {before:.0f} MiB before, at most {most:.0f} MiB")
    recovery = measured.recovery_s
    lines.append(
        "recovery  " + ("not seen" if recovery is None else f"{recovery:.1f} s until fast again")
    )
    return "\n".join(lines)


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
        lines += [f"  {name:50s}{milliseconds:11.2f}" for name, milliseconds in spent.items()]
        share = one.cpu_s * 1000 / sum(speed.served_cpu_ms.values())
        lines.append(f"  share of the time that is the models' own{share:20.0%}")
    return "\n".join(lines)
