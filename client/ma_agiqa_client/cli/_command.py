"""The command line: `python client/score.py`, or `ma-agiqa` when installed.

Results go to standard output, everything else goes to standard error.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import click

from ma_agiqa_client._programs.console import Console, printable
from ma_agiqa_client._programs.server_options import HELP_OPTIONS, Program, ServerOptions
from ma_agiqa_client._programs.serving import connect
from ma_agiqa_client._wire.pictures import EXTENSIONS
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli._batch import Batch
from ma_agiqa_client.cli._deliver import Delivery
from ma_agiqa_client.cli._explanations import Explanations
from ma_agiqa_client.cli._find import Listing, expand, split_list
from ma_agiqa_client.cli._journal import Journal, JournalError
from ma_agiqa_client.cli._options import Options, add_options
from ma_agiqa_client.errors import (
    CannotAlignError,
    CannotExplainError,
    ClientError,
    InvalidQuestionError,
)
from ma_agiqa_client.retry import Retry

EXIT_BAD_IMAGES = 1
EXIT_NO_SERVER = 3
EXIT_JOURNAL = 4
EXIT_NOT_WRITTEN = 5
EXIT_NOT_EXPLAINED = 6
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141

_EPILOG = """\b
Examples:
  PROGRAM imgs/
  PROGRAM imgs/ cat.png --output scores.csv
  PROGRAM 'imgs/**/*.png' --format jsonl
  find imgs -name '*.png' | PROGRAM - --format csv
  PROGRAM imgs/ --top 2 --copy-best best/
  PROGRAM imgs/ --group-by parent
  PROGRAM imgs/ --group-by '([a-z]+)\\.png$' --top 3
  PROGRAM imgs/ --report report.html --maps maps/
  PROGRAM imgs/ --resume done.jsonl --min-mos 3.5
  PROGRAM imgs/ --prompts prompts.csv --output scores.csv
  PROGRAM imgs/ --url triton.example.org:8001 --timeout 60

\b
The word compare in front of two folders tells whether the second is worse: see compare --help.

\b
PATH is an image, a folder, a quoted glob, or - for a list on standard input:
one path per line, or as `find -print0` writes it.

\b
Exit status:
  0    every image has a score
  1    some image has no score; the reason is listed
  2    wrong usage: a path that does not exist, no images, an unknown option
  3    no server that can score, or it went away; the scores so far are shown
  4    the --resume file belongs to a different run, or is in use
  5    a result could not be written
  6    no explanations, or no alignment: the server gives none, or the question is not valid
  130  interrupted; 141 the reader of standard output went away
"""


class _Programs(Program):
    """Scores images; if the first argument is `compare`, it is that command instead."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> click.Context:
        if args[:1] != ["compare"]:
            return super().make_context(info_name, args, parent, **extra)
        from ma_agiqa_client.cli._compare import main as compare  # it imports this module

        return compare.make_context(f"{info_name} compare", args[1:], parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(cls=_Programs, epilog=_EPILOG, context_settings=HELP_OPTIONS)
@add_options
def main(**values: Any) -> None:
    """Predict how people would rate AI-generated images, and list the best first."""
    options = Options(server=ServerOptions.take_from(values), **values)
    options.check()
    own = (options.maps, options.copy_best)
    listing = Listing(_paths(options.paths), options.recursive, own)
    expected = sum(1 for _ in listing)
    notice = listing.passed_over()
    if not expected:
        raise click.UsageError(
            f"There are no images in {', '.join(map(printable, options.paths))}. "
            f"Expected files that end in {', '.join(EXTENSIONS)}. {notice}"
        )
    if options.prompts and not any(options.prompts(found.path) for found in listing):
        raise click.UsageError(
            "None of the images has a prompt by --prompts. Check that its names are those of the "
            "files, such as cat.png or imgs/cat.png."
        )
    console = Console()
    if notice:
        console.print(notice)
    with exit_statuses(console, options.resume):
        sys.exit(_run(options, listing, expected, console))


def _paths(arguments: Sequence[str]) -> list[str]:
    paths: list[str] = []
    for argument in arguments:
        try:
            paths += split_list(_standard_input()) if argument == "-" else expand(argument)
        except FileNotFoundError as error:
            raise click.UsageError(printable(str(error))) from error
        except ValueError as error:
            raise click.UsageError(
                f"The list on standard input cannot be read: {error}. Give one path per line, in "
                "UTF-8."
            ) from error
    return paths


def _standard_input() -> bytes:
    return sys.stdin.buffer.read() if sys.stdin else b""  # None: it is closed


@contextmanager
def exit_statuses(console: Console, kept: str | None = None) -> Iterator[None]:
    """Turn errors that do not belong to an image into a message and an exit status."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Interrupted. The scores so far are in {kept}." if kept else "Interrupted.")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(EXIT_READER_GONE)
    except (CannotAlignError, CannotExplainError, InvalidQuestionError) as error:
        console.print(str(error))
        sys.exit(EXIT_NOT_EXPLAINED)
    except ClientError as error:
        console.print(str(error))
        sys.exit(EXIT_NO_SERVER)
    except JournalError as error:
        console.print(str(error))
        sys.exit(EXIT_JOURNAL)
    except OSError as error:
        console.print(f"A result could not be written: {error}.")
        sys.exit(EXIT_NOT_WRITTEN)


def _run(options: Options, listing: Listing, expected: int, console: Console) -> int:
    with ExitStack() as stack:
        scorer, card = stack.enter_context(
            connect(
                options.server,
                timeout_s=options.timeout,
                notify=console.print,
                explain=options.explains,
                retry=Retry(budget_s=options.retry_for),
                pin=True,
            )
        )
        journal = None
        if options.resume:
            journal = Journal(options.resume, card, maps=options.needs_maps)
            stack.enter_context(journal)
        output = stack.enter_context(_open_output(options))
        batch = Batch(
            scorer,
            card,
            listing,
            concurrency=options.concurrency,
            maps=options.needs_maps,
            journal=journal,
            prompt_of=options.prompts,
            on_failure=console.failure,
        )
        explanations = None
        if options.explains:
            explanations = Explanations(scorer, options.question, output, console)
        delivery = Delivery(options, card, output, expected, console, explanations)
        delivery.run(batch)
        status = _conclude(batch, card, options, console)
        return status if delivery.is_complete() else EXIT_NOT_WRITTEN


@contextmanager
def _open_output(options: Options) -> Iterator[IO[str]]:
    """Open the file of --output, or standard output.

    In CSV, names that are not UTF-8 keep their bytes. What the encoding of standard output lacks
    is written as an escape sequence of Python, such as `\\u732b`.
    """
    if options.output is None:
        if sys.stdout is None:
            raise OSError("standard output is closed; give a file with --output")
        if isinstance(sys.stdout, io.TextIOWrapper) and options.writes == "csv":
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        elif isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    with open(options.output, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file


def _conclude(batch: Batch, card: ModelCard, options: Options, console: Console) -> int:
    """Report how many images have no score and what to do about it; return the exit status."""
    counts = batch.counts
    failed = counts.bad + counts.unserved
    if counts.resumed:
        console.print(f"{counts.resumed} of {counts.scored + failed} images were scored earlier.")
    if failed:
        console.print(f"{failed} of {counts.scored + failed} images could not be scored.")
    if options.prompts and counts.unprompted:
        console.print(f"{counts.unprompted} images have no prompt, and so no alignment.")
    if counts.not_tried:
        console.print(f"The server went away: {counts.not_tried} of these were not tried.")
    if counts.unloaded:
        console.print(
            f"The server has unloaded {card.name}, version {card.version}, with which the run "
            "began: another version replaced it, or the server is shutting down."
        )
    if not counts.unserved:
        return EXIT_BAD_IMAGES if failed else 0
    console.print(
        "Run the same command again: finished images are kept."
        if options.resume
        else "With --resume FILE.jsonl, another run would score only what is missing."
    )
    return EXIT_NO_SERVER
