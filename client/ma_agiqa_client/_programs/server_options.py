"""What the command line, the page, the reward server and bulk jobs share: mostly the server."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from ma_agiqa_client._programs.embedded import DEFAULT_URL
from ma_agiqa_client.connection import Tls, check_url

__all__ = [
    "HELP_OPTIONS",
    "Program",
    "ServerOptions",
    "decorated",
    "host_option",
    "server_options",
    "timeout_option",
    "warn_if_open",
]

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Program(click.Command):
    """A command whose examples name it as the user called it, in the place of PROGRAM."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text((self.epilog or "").replace("PROGRAM", ctx.command_path))


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


def _grpc_addresses(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        return tuple(check_url(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


host_option = click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Whoever reaches it can have images scored.",
)

timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    envvar="MA_AGIQA_TIMEOUT",
    default=300.0,
    show_default=True,
    show_envvar=True,
    help="Time each image may take, waiting in the server included.",
)

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


def decorated(command: _Command, decorators: tuple[Callable[[Any], Any], ...]) -> _Command:
    """Give a function several options, in this order."""
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def server_options(command: _Command) -> _Command:
    """Give a function the options of `ServerOptions`."""
    return decorated(command, _SERVER)


def warn_if_open(host: str, say: Callable[[str], None]) -> None:
    """Say so if others than this machine can reach a --host."""
    if host not in _LOOPBACK:
        say(f"Listening on {host}: whoever reaches this address can have images scored.")
