"""A page for people: drop images, see them ranked; `--help` says how to start.

`python client/app.py` in a clone, `python -m ma_agiqa_client.app` when installed.

The page's library, NiceGUI, comes with the extra `app`. It brings its scripts and styles along, so
the page works without a network. Images stay in this process's memory until the page is closed.
"""

import sys

import click

from ma_agiqa_client._programs.console import Voice
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

__all__ = ["main"]

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
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of it."
)
@timeout_option
def main(host: str, port: int, timeout: float, **values: object) -> None:
    """Serve a page on which images are dropped and seen ranked, with what counted and maps."""
    server = ServerOptions.take_from(values)
    voice = Voice()
    try:
        from ma_agiqa_client.app import _page
    except ModuleNotFoundError as error:
        voice.say(
            f"The page needs {error.name}. Run in a clone of the repository: "
            "pip install './client[app]'"
        )
        sys.exit(1)
    warn_if_open(host, voice.say)
    try:
        with connect(server, timeout_s=timeout, say=voice.say) as (scorer, card):
            voice.say(f"The page is at http://{host}:{port} and shows scores of {card.name}.")
            _page.serve(scorer, card, host=host, port=port)
    except ClientError as error:
        voice.say(str(error))
        sys.exit(EXIT_NO_SERVER)
