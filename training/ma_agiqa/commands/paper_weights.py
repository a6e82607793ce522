"""Download the weights of the paper's model: mPLUG-Owl2 and the authors' scorer for AGIQA-3k.

Files that are already on disk are used, and an interrupted download resumes where it stopped.
Everything is checked for completeness; then the two paths are printed as the options that
export/to_triton.py takes. HF_ENDPOINT and HF_TOKEN are honored.
"""

import json
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from ma_agiqa.checkpoints.downloads import fetch_weights
from ma_agiqa.commands._shared import Command
from ma_agiqa.lmm.sources import PAPER_EMBEDDER

EXIT_INTERRUPTED = 130

_INTERRUPTED = (
    "\nInterrupted. Run the same command again: complete files are kept, and only the rest is "
    "downloaded.\n"
)
_EPILOG = """\b
Examples:
  python -m ma_agiqa paper-weights
  python -m ma_agiqa paper-weights --output /data/weights
  python -m ma_agiqa paper-weights --checkpoint ~/Downloads/AGIQA_3k.pt
  HF_ENDPOINT=https://hub.example.org python -m ma_agiqa paper-weights --json

\b
Exit status:
  0    both are there and complete
  1    a download or a check failed; the message says what to do
  130  interrupted
"""


@contextmanager
def _exit_at_once_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C end the process: the threads of the hub's library would finish their files."""

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, _INTERRUPTED.encode())
        os._exit(EXIT_INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("weights"),
    show_default=True,
    help="Folder for the downloads; it is made if it does not exist.",
)
@click.option(
    "--embedder",
    metavar="FOLDER_OR_HUB_ID",
    help=f"mPLUG-Owl2: a folder that is used as it is, or a hub id. Default: {PAPER_EMBEDDER}.",
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The authors' scorer, if you have its .pt file; it is used as it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the paths as a JSON object.")
def main(output: Path, embedder: str | None, checkpoint: Path | None, as_json: bool) -> None:
    with _exit_at_once_on_interrupt():
        scorer, folder = fetch_weights(
            output, embedder, checkpoint, tell=lambda text: click.echo(text, err=True)
        )
    paths = {"checkpoint": str(scorer.resolve()), "embedder": str(folder.resolve())}
    if as_json:
        click.echo(json.dumps(paths))
    else:
        for name, path in paths.items():
            click.echo(f"--{name} {shlex.quote(path)}")
