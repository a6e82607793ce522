"""The options of the command line, checked as far as they can be before anything is sent."""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from ma_agiqa_client.cli._embedded import DEFAULT_URL
from ma_agiqa_client.cli._output import FORMATS, format_of
from ma_agiqa_client.cli._select import Grouping, parse_grouping
from ma_agiqa_client.connection import Tls, check_url

__all__ = ["Options", "ServerOptions", "add_options", "server_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ServerOptions:
    """Where the server is, and how to reach it. Names are those of the options."""

    url: tuple[str, ...]
    tls: bool
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_server_name: str | None
    token: str | None
    model_version: int | None

    @classmethod
    def take_from(cls, values: dict[str, Any]) -> "ServerOptions":
        """Take this class's options out of those of a command."""
        return cls(**{field.name: values.pop(field.name) for field in fields(cls)})

    def make_tls(self) -> Tls | None:
        """Gather the --tls options.

        Raises:
            ValueError: a certificate without its key, or a key without its certificate.
        """
        given = (self.tls_ca, self.tls_cert, self.tls_key, self.tls_server_name)
        return Tls(*given) if self.tls or any(given) else None


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


def _grpc_addresses(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        return tuple(check_url(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


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
_PEM = click.Path(exists=True, dir_okay=False)

_SERVER = (
    click.option(
        "--url",
        metavar="HOST:PORT",
        multiple=True,
        envvar="MA_AGIQA_URL",
        show_envvar=True,
        callback=_grpc_addresses,
        help="gRPC address of a running server; repeat it to share the work. Without it: "
        f"{DEFAULT_URL}, and if nothing listens there, the server of this clone is started.",
    ),
    click.option("--tls", is_flag=True, help="Encrypt; the other --tls options imply it."),
    click.option("--tls-ca", metavar="PEM", type=_PEM, help="Whom to trust, if not the usual CAs."),
    click.option("--tls-cert", metavar="PEM", type=_PEM, help="Own certificate, for mutual TLS."),
    click.option("--tls-key", metavar="PEM", type=_PEM, help="Its private key."),
    click.option("--tls-server-name", metavar="NAME", help="Name in the server's certificate."),
    click.option(
        "--token",
        envvar="MA_AGIQA_TOKEN",
        show_envvar=True,
        help="Bearer token. Others can see command lines: better use the variable.",
    ),
    click.option(
        "--model-version",
        metavar="N",
        type=click.IntRange(min=1),
        help="Score with this version, of those that the server keeps; the active one by default.",
    ),
)

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
        "jsonl and csv write each image when it is scored and keep nothing in memory.",
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
        "--top", metavar="K", type=click.IntRange(min=1), help="Only the K best, of each group."
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
    *_SERVER,
    click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        envvar="MA_AGIQA_TIMEOUT",
        default=300.0,
        show_default=True,
        show_envvar=True,
        help="Time each image may take, waiting in the server included.",
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
    return _decorated(command, _OPTIONS)


def server_options(command: _Command) -> _Command:
    """Give a function the options of `ServerOptions`."""
    return _decorated(command, _SERVER)


def _decorated(command: _Command, decorators: tuple[Callable[[Any], Any], ...]) -> _Command:
    for decorate in reversed(decorators):
        command = decorate(command)
    return command
