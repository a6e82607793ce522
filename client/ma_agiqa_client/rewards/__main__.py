"""The reward server's command line: `python -m ma_agiqa_client.rewards --help`."""

import signal
import sys
from contextlib import suppress

import click

from ma_agiqa_client._programs.console import Console
from ma_agiqa_client._programs.server_options import (
    HELP_OPTIONS,
    ServerOptions,
    host_option,
    server_options,
    timeout_option,
    warn_if_open,
)
from ma_agiqa_client._programs.serving import connect
from ma_agiqa_client.errors import ClientError
from ma_agiqa_client.rewards._batch import check_fallback

EXIT_NO_SERVER = 3
EXIT_PORT = 4
_MIB = 2**20

_EPILOG = """\b
Examples:
  python -m ma_agiqa_client.rewards
  python -m ma_agiqa_client.rewards --url triton.example.org:8001 --port 9000
  python -m ma_agiqa_client.rewards --fallback 0.1

\b
Then, from a shell:
  curl localhost:18086/health
  echo "{\\"images\\": [\\"$(base64 -w0 cat.png)\\"]}" | curl -d @- localhost:18086

\b
18086 is the port at which flow_grpo looks for its "deqa" reward. For verl-omni,
give http_scorer_client the server_url http://localhost:18086.

\b
Exit status:
  0  stopped by Ctrl-C or SIGTERM
  2  wrong usage, or FastAPI or uvicorn is not installed
  3  no server that can score
  4  the port cannot be listened on
"""


@click.command(epilog=_EPILOG, context_settings=HELP_OPTIONS)
@server_options
@host_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=18086,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--fallback",
    metavar="X",
    type=float,
    help="Reward of an image that cannot be scored, or if no server answers. Without it, the "
    "trainer gets an error.",
)
@timeout_option
@click.option(
    "--max-body-mib",
    metavar="MIB",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Maximum size of a request.",
)
def main(
    host: str,
    port: int,
    fallback: float | None,
    timeout: float,
    max_body_mib: int,
    **values: object,
) -> None:
    """Answer trainers that ask a reward server, in JSON or in pickles of plain values."""
    try:
        from ma_agiqa_client.rewards._server import RewardServer
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"The reward server needs {error.name}. Run in a clone of the repository: "
            "pip install './client[rewards]'"
        ) from error
    server = ServerOptions.take_from(values)
    console = Console()
    try:
        check_fallback(fallback)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    warn_if_open(host, console.print)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also stops an embedded server
    try:
        with (
            suppress(KeyboardInterrupt),
            connect(server, timeout_s=timeout, notify=console.print) as (scorer, card),
        ):
            rewards = RewardServer(
                host, port, scorer, fallback=fallback, max_body_bytes=max_body_mib * _MIB
            )
            console.print(f"Rewards of {card.name} at {rewards.address}")
            rewards.run()
    except ClientError as error:
        console.print(str(error))
        sys.exit(EXIT_NO_SERVER)
    except OSError as error:
        console.print(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.")
        sys.exit(EXIT_PORT)


if __name__ == "__main__":
    main(prog_name="python -m ma_agiqa_client.rewards")
