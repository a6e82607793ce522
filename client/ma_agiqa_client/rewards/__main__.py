"""The reward server's command line: `python -m ma_agiqa_client.rewards --help`."""

import ctypes
import os
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
from ma_agiqa_client.errors import CannotAlignError, ClientError
from ma_agiqa_client.rewards._batch import ALIGNMENT, check_fallback
from ma_agiqa_client.rewards._parts import reward_set

EXIT_NO_SERVER = 3
EXIT_PORT = 4
_MIB = 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt in glibc

_EPILOG = """\b
Examples:
  python -m ma_agiqa_client.rewards
  python -m ma_agiqa_client.rewards --url triton.example.org:8001 --port 9000
  python -m ma_agiqa_client.rewards --fallback 0.1
  python -m ma_agiqa_client.rewards --reward mos --reward alignment=0.5
  python -m ma_agiqa_client.rewards --add faces=my_rewards:count_faces
  python -m ma_agiqa_client.rewards --add hpsv3=http://gpu-1:8080/score

\b
Then, from a shell:
  curl localhost:18086/health
  echo "{\\"images\\": [\\"$(base64 -w0 cat.png)\\"]}" | curl -d @- localhost:18086

\b
18086 is the port at which flow_grpo looks for its "deqa" reward. verl-omni,
UniRL, Flow-Factory, cosmos-rl and trainers like OpenRLHF find their paths at the
same address: docs/rewards.md says what to give to each.

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
@click.option(
    "--reward",
    "weights",
    metavar="NAME[=WEIGHT]",
    multiple=True,
    help="Reward to sum, with weight 1 by default: mos, alignment (with the prompt), "
    "compressibility, incompressibility, "
    "sharpness, colorfulness, resolution, or one of --add. With weight 0 it is only reported. "
    "Without this option: mos.",
)
@click.option(
    "--add",
    "added",
    metavar="NAME=WHERE",
    multiple=True,
    help="Further reward: MODULE:FUNCTION, called with images, prompts and metadata, or the URL "
    "of another reward server. Its weight is 1, or that of --reward.",
)
@click.option(
    "--guard",
    is_flag=True,
    help="Raise an alarm when the reward rises while the pictures go wrong: in the answers, "
    "at /metrics and /guard.png. Scores 6 images more for each 32.",
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
    weights: tuple[str, ...],
    added: tuple[str, ...],
    guard: bool,
    **values: object,
) -> None:
    """Answer trainers that ask a reward server, each in its own protocol."""
    try:
        from ma_agiqa_client.rewards._server import RewardServer
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"The reward server needs {error.name}. Run in a clone of the repository: "
            "pip install './client[rewards]'"
        ) from error
    _keep_memory()
    server = ServerOptions.take_from(values)
    console = Console()
    try:
        check_fallback(fallback)
        rewards = reward_set(weights, added)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    warn_if_open(host, console.print)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also stops an embedded server
    try:
        with (
            suppress(KeyboardInterrupt),
            connect(server, timeout_s=timeout, notify=console.print) as (scorer, card),
        ):
            if ALIGNMENT in rewards.weights and card.alignment is None:
                raise CannotAlignError(
                    f"{card.name} does not compare images with prompts. Export it again, or leave "
                    "--reward alignment out."
                )
            rewarding = RewardServer(
                host,
                port,
                scorer,
                rewards=rewards,
                guard=guard,
                fallback=fallback,
                max_body_bytes=max_body_mib * _MIB,
            )
            console.print(f"Rewards of {card.name} at {rewarding.address}")
            rewarding.run()
    except ClientError as error:
        console.print(str(error))
        sys.exit(EXIT_NO_SERVER)
    except OSError as error:
        console.print(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.")
        sys.exit(EXIT_PORT)
    if added:  # a function or another server may compute for minutes; no one waits for it any more
        sys.stderr.flush()
        os._exit(0)


def _keep_memory() -> None:
    """Have glibc keep up to 64 MiB of freed memory for the next request.

    By default it gives the memory of each image back, and asks for it again: 5 % of the time.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if set_option := getattr(library, "mallopt", None):
        set_option(_M_MMAP_THRESHOLD, 4 * _MIB)
        set_option(_M_TRIM_THRESHOLD, 64 * _MIB)


if __name__ == "__main__":
    main(prog_name="python -m ma_agiqa_client.rewards")
