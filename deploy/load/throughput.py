"""The SDK's `score_many` compared with plain gRPC clients, on the same server."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from load.generator import LoadError, Target, measure
from load.images import make_images
from load.server import connect, positive, report, repository_option, url_option
from ma_agiqa_client import Scorer

SDK = "score_many"


def sdk_rate(scorer: Scorer, files: Sequence[bytes], in_flight: int, seconds: float) -> float:
    """Images per second of `score_many`, timed as `generator.measure` does."""
    begin_s = end_s = 0.0

    def endless() -> Iterator[bytes]:
        for file in itertools.cycle(files):
            if end_s:
                return
            yield file

    images = 0
    for number, score in enumerate(scorer.score_many(endless(), max_in_flight=in_flight), 1):
        if score.error:
            raise LoadError(f"{SDK} did not score an image: {score.error}")
        now_s = time.perf_counter()
        if number == in_flight:
            begin_s = now_s
        elif begin_s and not end_s:
            images += 1
            end_s = now_s if now_s >= begin_s + seconds else 0.0
    return images / (end_s - begin_s)


def compare(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Rates of each contestant in each round, after one that does not count.

    The order alternates, so that other work on the machine affects all alike. score_many comes
    between the other two: the server takes the size of coming requests from those before, and after
    requests of eight images would refuse many single ones, which score_many tries again.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        report(f"round {number} of {rounds}")
        names = list(contestants)
        for name in reversed(names) if number % 2 else names:
            rate = contestants[name]()
            rates[name] += [rate] if number else []
    return rates


@click.command()
@url_option
@repository_option
@click.option("--rounds", default=7, show_default=True, help="Number of rounds to measure.")
@positive("--seconds", 3.0, "How long each contestant is measured in each round.")
@click.option(
    "--in-flight",
    type=click.IntRange(min=8),
    default=64,
    show_default=True,
    help="Number of images in flight.",
)
@click.option("--side", default=512, show_default=True, help="Side of the images in pixels.")
def throughput(
    url: str | None, repository: Path, rounds: int, seconds: float, in_flight: int, side: int
) -> None:
    """Compare score_many with plain clients, one image or eight in a request.

    The last line is the median over the rounds of score_many's share of the faster plain client.
    """
    files = [image.data for image in make_images([side], ["jpeg"], variants=16)]
    with (
        connect(url, repository) as (single, _),
        Target(single.url, images=8) as batches,
        Scorer(single.url, timeout_s=600) as scorer,
    ):

        def plain_rate(target: Target) -> float:
            return measure(target, files, in_flight // target.images, seconds).images_per_s

        contestants = {
            "one image a request": lambda: plain_rate(single),
            SDK: lambda: sdk_rate(scorer, files, in_flight, seconds),
            "eight images a request": lambda: plain_rate(batches),
        }
        rates = compare(contestants, rounds)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        spread = f"{min(found):.1f} to {max(found):.1f}"
        click.echo(f"{name:24} {medians[name]:7.1f} images/s  ({spread})")
    best = max((name for name in rates if name != SDK), key=medians.__getitem__)
    shares = (mine / other for mine, other in zip(rates[SDK], rates[best], strict=True))
    click.echo(f"{SDK}: {statistics.median(shares):.0%} of the best of the others, {best}")
