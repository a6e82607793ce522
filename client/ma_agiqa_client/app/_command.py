"""The command that serves the page: `python client/app.py`, or `python -m ma_agiqa_client.app`.

The page's library, NiceGUI, comes with the extra `app`. It includes its scripts and styles, so the
page works without a network. Images stay in this process's memory until the page is closed.
"""

import sys

import click

from ma_agiqa_client._programs.console import Console
from ma_agiqa_client._programs.server_options import (
    HELP_OPTIONS,
    Program,
    ServerOptions,
    host_option,
    server_options,
    timeout_option,
    warn_if_open,
)
from ma_agiqa_client._programs.serving import connect
from ma_agiqa_client.errors import ClientError

EXIT_NO_SERVER = 3

_EPILOG = """\b
Examples:
  PROGRAM
  PROGRAM --url triton.example.org:8001 --port 9000

\b
Exit status:
  1  NiceGUI is not installed
  2  wrong usage
  3  no server that can score
"""


@click.command(cls=Program, epilog=_EPILOG, context_settings=HELP_OPTIONS)
@server_options
@host_option
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on.",
)
@timeout_option
def main(host: str, port: int, timeout: float, **values: object) -> None:
    """Serve a web page that ranks the images dropped on it, with their maps."""
    server = ServerOptions.take_from(values)
    console = Console()
    try:
        from ma_agiqa_client.app import _page
    except ModuleNotFoundError as error:
        console.print(
            f"The page needs {error.name}. Run in a clone of the repository: "
            "pip install './client[app]'"
        )
        sys.exit(1)
    warn_if_open(host, console.print)
    try:
        with connect(server, timeout_s=timeout, notify=console.print) as (scorer, card):
            console.print(f"The page is at http://{host}:{port} and shows scores of {card.name}.")
            _page.serve(scorer, card, host=host, port=port)
    except ClientError as error:
        console.print(str(error))
        sys.exit(EXIT_NO_SERVER)
