"""The command line: `python client/score.py`, or `ma-agiqa` when installed.

Results go to standard output, everything else to standard error.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from ma_agiqa_client._embedded import DEFAULT_URL, embedded_server, find_serve_script, listens
from ma_agiqa_client._find import EXTENSIONS, find_images
from ma_agiqa_client._output import Row, best_first, printable, to_json, to_table, write_csv
from ma_agiqa_client._transport import check_url
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import ClientError, InvalidImageError, ServerUnavailableError
from ma_agiqa_client.score import Score
from ma_agiqa_client.scorer import Scorer

__all__ = ["main"]

EXIT_BAD_IMAGES = 1
EXIT_NO_SERVER = 3
EXIT_INTERRUPTED = 130

_FIRST_ANSWER_TIMEOUT_S = 30.0

_EPILOG = """\b
Examples:
  python client/score.py imgs/
  python client/score.py imgs/ cat.png --csv scores.csv
  python client/score.py imgs/ --json
  python client/score.py imgs/ --url triton.example.org:8001 --timeout 60

\b
Exit status:
  0  every image has a score
  1  some image has none; the reason is listed
  2  wrong usage: a path that does not exist, no images, an unknown option
  3  no server that can score
"""


def _grpc_address(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    try:
        return None if value is None else check_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _writable(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Find out before the scoring, not after it, that the file's folder is missing."""
    if value and not os.path.isdir(os.path.dirname(value) or "."):
        raise click.BadParameter(f"The folder of {value!r} does not exist. Make it first.")
    return value


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True))
@click.option(
    "--url",
    metavar="HOST:PORT",
    callback=_grpc_address,
    help=f"gRPC address of a running server. Without it: {DEFAULT_URL}, and if nothing listens "
    "there, the server of this clone is started for the run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of the table.")
@click.option(
    "--csv",
    "csv_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True),
    callback=_writable,
    help="Also write the scores to this CSV file.",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Time each image may take, waiting in the server included.",
)
@click.option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Images under way at once.",
)
def main(
    paths: Sequence[str],
    url: str | None,
    as_json: bool,
    csv_file: str | None,
    timeout_s: float,
    concurrency: int,
) -> None:
    """Predict how people would rate AI-generated images; the best come first.

    PATH is an image file or a folder, which is searched with its subfolders.
    """
    found = find_images(paths)
    if not found.images and not found.problems:
        raise click.UsageError(
            f"There are no images in {', '.join(map(printable, paths))}. "
            f"Expected files that end in {', '.join(EXTENSIONS)}."
        )
    try:
        with _scorer(url, timeout_s) as (scorer, card):
            rows = _score(scorer, found.images, concurrency)
    except KeyboardInterrupt:
        _say("Interrupted.")
        sys.exit(EXIT_INTERRUPTED)
    except ClientError as error:
        _say(str(error))
        sys.exit(EXIT_NO_SERVER)
    for path, reason in found.problems:
        rows.append(Row(path, Score.failed(InvalidImageError(reason), 0.0, None)))
    rows = best_first(rows)
    if csv_file:
        _save(csv_file, rows)
    _show(rows, card, as_json)
    sys.exit(_report_failures(rows))


@contextmanager
def _scorer(url: str | None, timeout_s: float) -> Iterator[tuple[Scorer, ModelCard]]:
    """Connect to the server, or to one started for the run, and ask what it serves."""
    with ExitStack() as stack:
        embedded = url is None and not listens(DEFAULT_URL)
        if embedded:
            script = find_serve_script()
            _say(f"Nothing listens at {DEFAULT_URL}: starting the embedded server ...")
            url = stack.enter_context(embedded_server(script))
        scorer = stack.enter_context(Scorer(url or DEFAULT_URL, timeout_s=timeout_s))
        card = scorer.model(timeout_s=min(timeout_s, _FIRST_ANSWER_TIMEOUT_S))
        if embedded:
            note = f" {card.note}" if card.note else ""
            _say(f"The embedded server runs at {url} for this run and serves {card.name}.{note}")
        yield scorer, card


def _score(scorer: Scorer, images: list[str], concurrency: int) -> list[Row]:
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        scores = bar.track(
            scorer.score_many(images, max_in_flight=concurrency), len(images), description="Scoring"
        )
        return [Row(image, score) for image, score in zip(images, scores, strict=True)]


def _show(rows: list[Row], card: ModelCard, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(rows))
    elif any(row.score.error is None for row in rows):
        to_table(rows, card, Console())


def _save(csv_file: str, rows: list[Row]) -> None:
    try:
        write_csv(csv_file, rows)
    except OSError as error:
        raise click.FileError(csv_file, error.strerror) from error


def _report_failures(rows: list[Row]) -> int:
    """List the images without a score; give the exit status."""
    failed = [row for row in rows if row.score.error]
    if failed:
        _say(f"{len(failed)} of {len(rows)} images could not be scored:")
    for row in failed:
        _say(f"  {row.image}: {row.score.error}")
    if any(isinstance(row.score.error, ServerUnavailableError) for row in failed):
        return EXIT_NO_SERVER
    return EXIT_BAD_IMAGES if failed else 0


def _say(message: str) -> None:
    """Speak to the person at the terminal."""
    click.echo("\n".join(map(printable, message.split("\n"))), err=True)
