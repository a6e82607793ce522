"""A page for people: drop images, see them ranked. `python client/app.py --help` says how to start.

The page's library, NiceGUI, comes with the extra `app`. It brings its scripts and styles along, so
the page works without a network. Images stay in this process's memory until the page is closed.
"""

import sys

import click

from ma_agiqa_client.cli._options import ServerOptions, server_options
from ma_agiqa_client.cli._serving import connect
from ma_agiqa_client.cli._voice import Voice
from ma_agiqa_client.errors import ClientError

__all__ = ["main"]

EXIT_NO_SERVER = 3
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_EPILOG = """\b
Examples:
  python client/app.py
  python client/app.py --url triton.example.org:8001 --port 9000

\b
Exit status:
  1  NiceGUI is not installed
  2  wrong usage
  3  no server that can score
"""


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@server_options
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Whoever reaches it can have images scored.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of it."
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Time each image may take.",
)
def main(host: str, port: int, timeout: float, **values: object) -> None:
    """Serve a page on which images are dropped and seen ranked, with what counted and maps."""
    server = ServerOptions.take_from(values)
    voice = Voice()
    try:
        from ma_agiqa_client.app import _page
    except ModuleNotFoundError as error:
        voice.say(
            f"The page needs {error.name}. Install the extra: pip install 'ma-agiqa-client[app]', "
            "or ./client[app] in a clone."
        )
        sys.exit(1)
    if host not in _LOOPBACK:
        voice.say(f"Listening on {host}: whoever reaches this address can have images scored.")
    try:
        with connect(server, timeout_s=timeout, say=voice.say) as (scorer, card):
            voice.say(f"The page is at http://{host}:{port} and shows scores of {card.name}.")
            _page.serve(scorer, card, host=host, port=port)
    except ClientError as error:
        voice.say(str(error))
        sys.exit(EXIT_NO_SERVER)
