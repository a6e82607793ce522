"""The options of the command line; contradictions are found before anything is sent."""

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
from ma_agiqa_client.cli._prompts import PromptOf, prompts_option_value
from ma_agiqa_client.cli._select import Grouping, grouping_option_value
from ma_agiqa_client.cli.output import FORMATS, format_of

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Options:
    """The options of the command line; the fields are named after them."""

    paths: tuple[str, ...]
    recursive: bool
    output_format: str | None
    output: str | None
    top: int | None
    min_mos: float | None
    group_by: Grouping | None
    prompts: PromptOf | None
    copy_best: str | None
    maps: str | None
    tag: bool
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
        """Format of the output."""
        return self.output_format or format_of(self.output)

    @property
    def needs_maps(self) -> bool:
        """Whether the patch maps are needed."""
        return bool(self.maps or self.report)

    @property
    def explains(self) -> bool:
        """Whether the language model is asked about the images."""
        return self.explain or self.question is not None

    def check(self) -> None:
        """Find contradictions.

        Raises:
            click.UsageError: two options contradict each other.
        """
        if self.copy_best:
            self._check_copies(self.copy_best)
        if self.explains and self.writes != "table":
            raise click.UsageError(
                f"--explain writes text below a table; {self.writes} has no place for it. "
                "Leave out --explain, or use --format table."
            )
        if self.tag and self.resume:
            raise click.UsageError(
                "--tag changes the files, so --resume would score them again. Leave one out."
            )
        if self.question is not None and not self.question.strip():
            raise click.UsageError("--question is empty. Ask something about the images.")
        files = [name for name in (self.output, self.report, self.resume) if name]
        if len({os.path.abspath(name) for name in files}) < len(files):
            raise click.UsageError("--output, --report and --resume must be different files.")

    def _check_copies(self, folder: str) -> None:
        if self.top is None and self.min_mos is None and self.group_by is None:
            raise click.UsageError(
                "--copy-best copies the images that --top, --min-mos or --group-by select. "
                "Give one of them."
            )
        if os.path.isdir(folder) and os.listdir(folder):
            raise click.UsageError(
                f"The folder {folder!r} of --copy-best is not empty. Ranks of two runs would be "
                "mixed: give another folder."
            )


def writable(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Find out before scoring, not after it, that the folder of a file is missing."""
    if value and not os.path.isdir(os.path.dirname(value) or "."):
        raise click.BadParameter(f"The folder of {value!r} does not exist. Create it first.")
    return value


_FILE = click.Path(dir_okay=False, writable=True)
_FOLDER = click.Path(file_okay=False, writable=True)

_OPTIONS = (
    click.argument("paths", nargs=-1, required=True, metavar="PATH..."),
    click.option(
        "--recursive/--no-recursive", default=True, help="Search subfolders (default) or not."
    ),
    click.option(
        "-f",
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        help="By default according to the extension of --output, else table. table and json list "
        "the best images first; jsonl and csv write each image when it is scored, and keep no "
        "scores in memory except for --top, --group-by, --copy-best and --report.",
    ),
    click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=_FILE,
        callback=writable,
        help="Write to this file instead of standard output.",
    ),
    click.option(
        "--top",
        metavar="K",
        type=click.IntRange(min=1),
        help="Show only the K best; with --group-by, the K best of each group.",
    ),
    click.option(
        "--min-mos", metavar="X", type=float, help="Show only images with at least this MOS."
    ),
    click.option(
        "--group-by",
        metavar="REGEX|parent",
        callback=grouping_option_value,
        help="Best of N: compare only images in the same folder (parent), or whose paths have the "
        "same REGEX groups. Shows the best of each group, or --top K.",
    ),
    click.option(
        "--prompts",
        metavar="FILE.csv|REGEX",
        callback=prompts_option_value,
        help="Also compare each image with the text it was made from: FILE.csv has the columns "
        "name and prompt, or the groups of REGEX find it in the path. Adds the column alignment. "
        "Not available with the demo model.",
    ),
    click.option(
        "--copy-best",
        metavar="DIR",
        type=_FOLDER,
        help="Copy the images that the three options above select; names begin with the rank.",
    ),
    click.option(
        "--maps",
        metavar="DIR",
        type=_FOLDER,
        help="Draw a heatmap of patch score x weight over each image that is shown.",
    ),
    click.option(
        "--tag",
        is_flag=True,
        help="Write the score into the metadata of each image that is shown: a text chunk of PNG, "
        "XMP of JPEG and WebP. Changes these files, but not their pixels.",
    ),
    click.option(
        "--report",
        metavar="FILE.html",
        type=_FILE,
        callback=writable,
        help="Write a self-contained HTML page: thumbnails, histogram, sorting, filters, maps.",
    ),
    click.option(
        "--resume",
        metavar="FILE.jsonl",
        type=_FILE,
        callback=writable,
        help="Keep finished scores in this file, and skip the images in it that have not changed. "
        "Survives kill -9. Scores of another model are refused.",
    ),
    click.option(
        "--explain",
        is_flag=True,
        help="Below the table, write what the language model says about the meaning and the "
        "coherence of each image that is shown. Not available with the demo model.",
    ),
    click.option(
        "--question", metavar="TEXT", help="Ask this question instead; implies --explain."
    ),
    server_options,
    timeout_option,
    click.option(
        "--retry-for",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=120.0,
        show_default=True,
        help="How long to wait for a server that has stopped answering, for example while it "
        "restarts.",
    ),
    click.option(
        "--concurrency",
        metavar="N",
        type=click.IntRange(min=1),
        envvar="MA_AGIQA_CONCURRENCY",
        default=32,
        show_default=True,
        show_envvar=True,
        help="Maximum number of images in flight.",
    ),
)


def add_options(command: _Command) -> _Command:
    """Add all options of the command line to a function."""
    return decorated(command, _OPTIONS)
