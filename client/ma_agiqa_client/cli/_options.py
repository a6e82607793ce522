"""The options of the command line, checked as far as they can be before anything is sent."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from ma_agiqa_client._programs.server_options import (
    ServerOptions,
    decorated,
    server_options,
    timeout_option,
)
from ma_agiqa_client.cli._output import FORMATS, format_of
from ma_agiqa_client.cli._select import Grouping, parse_grouping

__all__ = ["Options", "add_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Options:
    """What the user asked for. Names are those of the options."""

    paths: tuple[str, ...]
    recursive: bool
    output_format: str | None
    output: str | None
    top: int | None
    min_mos: float | None
    group_by: Grouping | None
    copy_best: str | None
    maps: str | None
    report: str | None
    resume: str | None
    explain: bool
    question: str | None
    timeout: float
    retry_for: float
    concurrency: int
    server: ServerOptions

    @property
    def writes(self) -> str:
        """The format of the output."""
        return self.output_format or format_of(self.output)

    @property
    def needs_maps(self) -> bool:
        """Whether the server has to send the patch maps."""
        return bool(self.maps or self.report)

    @property
    def explains(self) -> bool:
        """Whether the language model is asked about the images."""
        return self.explain or self.question is not None

    def check(self) -> None:
        """Find contradictions.

        Raises:
            click.UsageError: there is one.
        """
        if self.copy_best:
            self._check_copies(self.copy_best)
        if self.explains and self.writes != "table":
            raise click.UsageError(
                f"--explain writes text below a table; {self.writes} has no place for it. "
                "Leave --explain or the other format out."
            )
        if self.question is not None and not self.question.strip():
            raise click.UsageError("--question is empty. Ask something about the images.")
        files = [name for name in (self.output, self.report, self.resume) if name]
        if len({os.path.abspath(name) for name in files}) < len(files):
            raise click.UsageError("--output, --report and --resume have to be different files.")

    def _check_copies(self, folder: str) -> None:
        if self.top is None and self.min_mos is None and self.group_by is None:
            raise click.UsageError(
                "--copy-best copies what --top, --min-mos or --group-by choose. Give one of them."
            )
        if os.path.isdir(folder) and os.listdir(folder):
            raise click.UsageError(
                f"The folder {folder!r} of --copy-best is not empty. Ranks of two runs would mix: "
                "name another one."
            )


def _writable(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Find out before the scoring, not after it, that the file's folder is missing."""
    if value and not os.path.isdir(os.path.dirname(value) or "."):
        raise click.BadParameter(f"The folder of {value!r} does not exist. Make it first.")
    return value


def _grouping(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Grouping | None:
    try:
        return None if value is None else parse_grouping(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_FILE = click.Path(dir_okay=False, writable=True)
_FOLDER = click.Path(file_okay=False, writable=True)

_OPTIONS = (
    click.argument("paths", nargs=-1, required=True, metavar="PATH..."),
    click.option(
        "--recursive/--no-recursive", default=True, help="Search subfolders (the default) or not."
    ),
    click.option(
        "-f",
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        help="Default: by the ending of --output, else table. table and json list the best first; "
        "jsonl and csv write each image when it is scored, and keep no scores in memory but for "
        "--top, --group-by, --copy-best and --report.",
    ),
    click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=_FILE,
        callback=_writable,
        help="Write here instead of to standard output.",
    ),
    click.option(
        "--top",
        metavar="K",
        type=click.IntRange(min=1),
        help="Only the K best; with --group-by, of each group.",
    ),
    click.option("--min-mos", metavar="X", type=float, help="Only images with at least this MOS."),
    click.option(
        "--group-by",
        metavar="REGEX|parent",
        callback=_grouping,
        help="Best of N: compare only images of one folder (parent), or whose path has the same "
        "REGEX groups. Shows the best of each, or --top K.",
    ),
    click.option(
        "--copy-best",
        metavar="DIR",
        type=_FOLDER,
        help="Copy the images that the three options above choose, rank first in the name.",
    ),
    click.option(
        "--maps",
        metavar="DIR",
        type=_FOLDER,
        help="Draw a heatmap of patch score x weight over each image shown.",
    ),
    click.option(
        "--report",
        metavar="FILE.html",
        type=_FILE,
        callback=_writable,
        help="Make one self-contained page: thumbnails, histogram, sorting, filters, maps.",
    ),
    click.option(
        "--resume",
        metavar="FILE.jsonl",
        type=_FILE,
        callback=_writable,
        help="Keep finished scores here, and skip images that are in it and unchanged. "
        "Survives kill -9. Refuses scores of another model.",
    ),
    click.option(
        "--explain",
        is_flag=True,
        help="Have the language model say below the table what it thinks of the meaning and the "
        "coherence of each image shown. Not with the demo model.",
    ),
    click.option("--question", metavar="TEXT", help="Ask it this instead; implies --explain."),
    server_options,
    timeout_option,
    click.option(
        "--retry-for",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=120.0,
        show_default=True,
        help="How long a server that has stopped answering is waited for, as while it restarts.",
    ),
    click.option(
        "--concurrency",
        metavar="N",
        type=click.IntRange(min=1),
        envvar="MA_AGIQA_CONCURRENCY",
        default=32,
        show_default=True,
        show_envvar=True,
        help="Images under way at once.",
    ),
)


def add_options(command: _Command) -> _Command:
    """Give a function every option of the command line."""
    return decorated(command, _OPTIONS)
