"""The command line: `python client/score.py`, or `ma-agiqa` when installed.

Results go to standard output, everything else to standard error.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import click

from ma_agiqa_client._programs.console import Voice, printable
from ma_agiqa_client._programs.server_options import HELP_OPTIONS, Program, ServerOptions
from ma_agiqa_client._programs.serving import connect
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli._batch import Batch
from ma_agiqa_client.cli._deliver import Delivery
from ma_agiqa_client.cli._explanations import Explanations
from ma_agiqa_client.cli._find import EXTENSIONS, Listing, expand, split_list
from ma_agiqa_client.cli._journal import Journal, JournalError
from ma_agiqa_client.cli._options import Options, add_options
from ma_agiqa_client.errors import CannotExplainError, ClientError, InvalidQuestionError
from ma_agiqa_client.retry import Retry

__all__ = ["main"]

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
  PROGRAM imgs/ --url triton.example.org:8001 --timeout 60

\b
PATH is an image, a folder, a glob in quotes, or - for a list on standard
input: one path per line, or as `find -print0` writes it.

\b
Exit status:
  0    every image has a score
  1    some image has none; the reason is listed
  2    wrong usage: a path that does not exist, no images, an unknown option
  3    no server that can score, or it went away; what was scored is shown
  4    the file of --resume holds other things, or is in use
  5    a result could not be written
  6    nothing could be explained: the server has no words, or a bad question
  130  interrupted; 141 the reader of standard output went away
"""


@click.command(cls=Program, epilog=_EPILOG, context_settings=HELP_OPTIONS)
@add_options
def main(**values: Any) -> None:
    """Predict how people would rate AI-generated images; the best come first."""
    options = Options(server=ServerOptions.take_from(values), **values)
    options.check()
    listing = Listing(_paths(options.paths), options.recursive)
    expected = sum(1 for _ in listing)
    if not expected:
        raise click.UsageError(
            f"There are no images in {', '.join(map(printable, options.paths))}. "
            f"Expected files that end in {', '.join(EXTENSIONS)}."
        )
    voice = Voice()
    with _exit_statuses(options, voice):
        sys.exit(_run(options, listing, expected, voice))


def _paths(arguments: Sequence[str]) -> list[str]:
    paths: list[str] = []
    for argument in arguments:
        try:
            paths += split_list(sys.stdin.buffer.read()) if argument == "-" else expand(argument)
        except FileNotFoundError as error:
            raise click.UsageError(printable(str(error))) from error
    return paths


@contextmanager
def _exit_statuses(options: Options, voice: Voice) -> Iterator[None]:
    """Turn what can go wrong outside the images into a sentence and a status."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f" The scores so far are in {options.resume}." if options.resume else ""
        voice.say(f"Interrupted.{kept}")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(EXIT_READER_GONE)
    except (CannotExplainError, InvalidQuestionError) as error:
        voice.say(str(error))
        sys.exit(EXIT_NOT_EXPLAINED)
    except ClientError as error:  # some are OSErrors too
        voice.say(str(error))
        sys.exit(EXIT_NO_SERVER)
    except JournalError as error:
        voice.say(str(error))
        sys.exit(EXIT_JOURNAL)
    except OSError as error:
        voice.say(f"A result could not be written: {error}.")
        sys.exit(EXIT_NOT_WRITTEN)


def _run(options: Options, listing: Listing, expected: int, voice: Voice) -> int:
    with ExitStack() as stack:
        scorer, card = stack.enter_context(
            connect(
                options.server,
                timeout_s=options.timeout,
                say=voice.say,
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
            on_failure=voice.failure,
        )
        explanations = None
        if options.explains:
            explanations = Explanations(scorer, options.question, output, voice)
        Delivery(options, card, output, expected, voice, explanations).run(batch)
        return _conclude(batch, card, options, voice)


@contextmanager
def _open_output(options: Options) -> Iterator[IO[str]]:
    """The file of --output, or standard output; bytes of odd file names are kept."""
    if options.output is None:
        if options.writes == "csv" and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield sys.stdout
        return
    with open(options.output, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file


def _conclude(batch: Batch, card: ModelCard, options: Options, voice: Voice) -> int:
    """Say how many images have no score and what to do about it; give the exit status."""
    counts = batch.counts
    failed = counts.bad + counts.unserved
    if counts.resumed:
        voice.say(f"{counts.resumed} of {counts.scored + failed} images were scored earlier.")
    if failed:
        voice.say(f"{failed} of {counts.scored + failed} images could not be scored.")
    if counts.not_tried:
        voice.say(f"The server went away: {counts.not_tried} of these were not tried.")
    if counts.unloaded:
        voice.say(
            f"The server has unloaded {card.name}, version {card.version}, with which the run "
            "began: another one took its place, or the server shuts down."
        )
    if not counts.unserved:
        return EXIT_BAD_IMAGES if failed else 0
    voice.say(
        "Run the same command again: finished images are kept."
        if options.resume
        else "With --resume FILE.jsonl a further run would score only what is missing."
    )
    return EXIT_NO_SERVER
