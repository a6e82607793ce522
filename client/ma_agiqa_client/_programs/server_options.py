"""Options that the command line, the page, the reward server and bulk jobs have in common."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from ma_agiqa_client._programs.embedded import DEFAULT_URL
from ma_agiqa_client.connection import Tls, check_url

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Program(click.Command):
    """A command whose examples contain the name it was called by, in place of PROGRAM."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text((self.epilog or "").replace("PROGRAM", ctx.command_path))


@dataclass(frozen=True)
class ServerOptions:
    """Where the server is, and how to reach it. The fields are named after the options."""

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
        """Remove the options of this class from those of a command, and return them."""
        return cls(**{field.name: values.pop(field.name) for field in fields(cls)})

    def make_tls(self) -> Tls | None:
        """Combine the --tls options.

        Raises:
            ValueError: there is a certificate without its key, or a key without its certificate.
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
    help="Address to listen on. Anyone who can reach it can have images scored.",
)

timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    envvar="MA_AGIQA_TIMEOUT",
    default=300.0,
    show_default=True,
    show_envvar=True,
    help="Time that each image may take, including the wait in the server's queue.",
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
        help="gRPC address of a running server; repeat the option to share the work between "
        f"servers. By default {DEFAULT_URL}; if nothing listens there, the embedded server of this "
        "clone is started.",
    ),
    click.option(
        "--tls", is_flag=True, help="Encrypt the connection; the other --tls options imply it."
    ),
    click.option(
        "--tls-ca",
        metavar="PEM",
        type=_PEM,
        help="CA certificates to trust instead of the usual ones.",
    ),
    click.option(
        "--tls-cert", metavar="PEM", type=_PEM, help="This client's certificate, for mutual TLS."
    ),
    click.option("--tls-key", metavar="PEM", type=_PEM, help="Private key of --tls-cert."),
    click.option(
        "--tls-server-name",
        metavar="NAME",
        help="Name in the server's certificate, if it differs from the address.",
    ),
    click.option(
        "--token",
        envvar="MA_AGIQA_TOKEN",
        show_envvar=True,
        help="Bearer token. Other users can see command lines: prefer the environment variable.",
    ),
    click.option(
        "--model-version",
        metavar="N",
        type=click.IntRange(min=1),
        help="Version of the model, among those that the server keeps; the active one by default.",
    ),
)


def decorated(command: _Command, decorators: tuple[Callable[[Any], Any], ...]) -> _Command:
    """Apply several option decorators to a function, in this order."""
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def server_options(command: _Command) -> _Command:
    """Add the options of `ServerOptions` to a function."""
    return decorated(command, _SERVER)


def warn_if_open(host: str, notify: Callable[[str], None]) -> None:
    """Send a warning if other machines may reach a --host."""
    if host not in LOOPBACK_HOSTS:
        notify(f"Listening on {host}: anyone who can reach this address can have images scored.")
