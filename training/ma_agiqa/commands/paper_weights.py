"""Get the weights of the paper's model: mPLUG-Owl2 and the authors' scorer for AGIQA-3k.

What is already on disk is used, and an interrupted download goes on where it stopped. Everything
is checked for completeness; then the two paths are printed as the options that
export/to_triton.py takes. HF_ENDPOINT and HF_TOKEN are honored.
"""

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from ma_agiqa.checkpoints.download_errors import explain_lack_of_space
from ma_agiqa.checkpoints.downloads import DriveDownload, HubDownload, format_bytes
from ma_agiqa.checkpoints.weight_files import check_checkpoint, check_mplug_owl2
from ma_agiqa.errors import ConfigError, MAAGIQAError
from ma_agiqa.lmm.sources import PAPER_EMBEDDER

__all__ = ["fetch_checkpoint", "fetch_owl"]

CHECKPOINT_NAME = "ma_agiqa_agiqa_3k.pt"
EXIT_INTERRUPTED = 130

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_INTERRUPTED = (
    "\nInterrupted. Run the same command again: complete files are kept, and only the rest is "
    "fetched.\n"
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
  1    something could not be fetched or is not what it should be; the message says what to do
  130  interrupted
"""


def fetch_owl(output: Path, source: str = PAPER_EMBEDDER, endpoint: str | None = None) -> Path:
    """Get mPLUG-Owl2 from the hub, unless it is already there.

    Args:
        output: folder of the weights; the model gets a folder in it.
        source: hub id.
        endpoint: address of the hub; HF_ENDPOINT or the public one if not given.

    Returns:
        The model's folder, with every file checked.

    Raises:
        DownloadError: it says what to do.
    """
    download = HubDownload(output / source.split("/")[-1], source, endpoint)
    require_space(output, [download])
    return download.run()


def fetch_checkpoint(output: Path) -> Path:
    """Get the authors' scorer for AGIQA-3k from Google Drive, unless it is already there.

    Args:
        output: folder of the weights.

    Returns:
        The checkpoint, checked.

    Raises:
        DownloadError: it says what to do.
    """
    download = DriveDownload(output / CHECKPOINT_NAME)
    require_space(output, [download])
    return download.run()


def require_space(output: Path, downloads: Sequence[HubDownload | DriveDownload]) -> int:
    """Make sure that what is still to be fetched fits on the disk.

    Returns:
        The bytes still to be fetched.

    Raises:
        DownloadError: it does not fit, or the hub cannot be asked for the sizes.
    """
    missing = {download: download.missing_bytes() for download in downloads}
    needed = sum(missing.values())
    present = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    free = shutil.disk_usage(present).free
    if needed > free:
        by_hand = " ".join(download.by_hand for download, count in missing.items() if count)
        raise explain_lack_of_space(format_bytes(needed), format_bytes(free), str(output), by_hand)
    return needed


def get_weights(output: Path, owl: str | None, checkpoint: Path | None) -> tuple[Path, Path]:
    """Settle both weights: check those that are given, fetch the others.

    The checkpoint comes first: it is the smaller one, and the more likely to be refused.

    Args:
        output: folder of the weights.
        owl: folder of mPLUG-Owl2, or a hub id.
        checkpoint: `.pt` file of the authors' code.

    Returns:
        The checkpoint's file and mPLUG-Owl2's folder.

    Raises:
        MAAGIQAError: it says what to do.
    """
    owl_folder = Path(owl) if owl and Path(owl).is_dir() else None
    hub = drive = None
    if checkpoint is None:
        drive = DriveDownload(output / CHECKPOINT_NAME)
        _tell(drive.announcement())
    else:
        _tell(f"Scorer: {checkpoint} is given; nothing to fetch.")
        check_checkpoint(checkpoint)
    if owl_folder is None:
        hub = _hub_download(output, owl or PAPER_EMBEDDER)
        _tell(hub.announcement())
    else:
        _tell(f"mPLUG-Owl2: {owl_folder} is given; nothing to fetch.")
        check_mplug_owl2(owl_folder)
    downloads = [download for download in (drive, hub) if download]
    if needed := require_space(output, downloads):
        _tell(f"Still to be fetched: {format_bytes(needed)}. Ctrl-C stops; run again to go on.")
    return drive.run() if drive else checkpoint, hub.run() if hub else owl_folder


def _hub_download(output: Path, owl: str) -> HubDownload:
    if not _HUB_ID.fullmatch(owl):
        raise ConfigError(
            f"--owl {owl}: there is no such folder, and it is no id of a model on the hub. Give a "
            f"folder with config.json and the weight files, or an id such as {PAPER_EMBEDDER}."
        )
    return HubDownload(output / owl.split("/")[-1], owl)


def _tell(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _leave_at_once_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C end the process: the threads of the hub's library would finish their files."""

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, _INTERRUPTED.encode())
        os._exit(EXIT_INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@click.command(help=__doc__, epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("weights"),
    show_default=True,
    help="Folder for what is fetched; made if it does not exist.",
)
@click.option(
    "--owl",
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
def main(output: Path, owl: str | None, checkpoint: Path | None, as_json: bool) -> None:
    with _leave_at_once_on_interrupt():
        try:
            scorer, folder = get_weights(output, owl, checkpoint)
        except MAAGIQAError as error:
            raise click.ClickException(str(error)) from error
    paths = {"checkpoint": str(scorer.resolve()), "owl": str(folder.resolve())}
    if as_json:
        click.echo(json.dumps(paths))
    else:
        for name, path in paths.items():
            click.echo(f"--{name} {shlex.quote(path)}")


if __name__ == "__main__":
    main(prog_name="python -m ma_agiqa paper-weights")
