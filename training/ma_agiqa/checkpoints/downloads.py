"""The two downloads of the paper's model: mPLUG-Owl2 from the hub, the scorer from Google Drive.

huggingface_hub and gdown transfer, resume and verify. Both downloads know without a network whether
there is anything to do, state the missing bytes before they start, and check what they got.
"""

import fnmatch
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.file_download import DryRunFileInfo

from ma_agiqa.checkpoints.download_errors import explain
from ma_agiqa.checkpoints.weight_files import check_checkpoint, check_mplug_owl2
from ma_agiqa.errors import CheckpointError, ConfigError, DownloadError
from ma_agiqa.lmm.sources import PAPER_EMBEDDER

CHECKPOINT_NAME = "ma_agiqa_agiqa_3k.pt"
"""File name of the authors' scorer in the folder of the weights."""

_DRIVE_ID = "1YT9Fryok-ozYPIvT1V3gEnEF-Ij3UxPp"
_DRIVE_PAGE = f"https://drive.google.com/file/d/{_DRIVE_ID}/view"
_CHECKPOINT_BYTES = 660_000_000  # 164.5 M parameters x 4 bytes, and their names

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SAFETENSORS, _BIN = "model*.safetensors", "pytorch_model*.bin"
_PATTERNS = (
    *("config.json", "*tokenizer*", "special_tokens_map.json", "*.index.json"),
    *(_SAFETENSORS, _BIN),
)
_PARALLEL_FILES = 4  # of about 0.5 GB; an interruption loses those in flight

_TIMEOUT_S = 60.0
_RETRIES = 3


@dataclass(frozen=True)
class HubDownload:
    """mPLUG-Owl2 from the Hugging Face hub.

    Attributes:
        folder: where its files go.
        repo: id of the model.
        endpoint: address of the hub; by default HF_ENDPOINT or the public hub.
        revision: commit, tag or branch on the hub; by default its main branch.
    """

    folder: Path
    repo: str = PAPER_EMBEDDER
    endpoint: str | None = None
    revision: str | None = None

    @property
    def page(self) -> str:
        """Address of the model's page."""
        return f"{self.endpoint or huggingface_hub.constants.ENDPOINT}/{self.repo}"

    @property
    def by_hand(self) -> str:
        """How to do without this download."""
        return (
            "By hand: download config.json, the tokenizer's files and all weight files from "
            f"{self.page} into {self.folder}, or give the folder where they are with --embedder."
        )

    @cached_property
    def fault(self) -> str | None:
        """What the folder lacks; None if it is complete. Needs no network."""
        try:
            check_mplug_owl2(self.folder)
        except CheckpointError as error:
            return str(error)
        return None

    def announcement(self) -> str:
        """What will happen. Needs no network."""
        if self.fault is None:
            return f"mPLUG-Owl2: {self.folder} is complete; nothing to download."
        size = ", 16.4 GB" if self.repo == PAPER_EMBEDDER else ""
        state = f"\n  so far:   {self.fault}" if self.folder.is_dir() else ""
        return (
            f"mPLUG-Owl2, the frozen multimodal model{size}:\n"
            f"  from:     {self.page}\n"
            f"  to:       {self.folder}{state}\n"
            "  license:  its language weights derive from LLaMA 2 and are under the LLaMA 2 "
            "Community License"
        )

    @cached_property
    def _files(self) -> list[DryRunFileInfo]:
        """The needed files on the hub; safetensors are preferred where there are both kinds."""
        files: list[DryRunFileInfo] = self._transfer(
            revision=self.revision, allow_patterns=list(_PATTERNS), dry_run=True
        )
        if any(fnmatch.fnmatch(file.filename, _SAFETENSORS) for file in files):
            files = [file for file in files if not fnmatch.fnmatch(file.filename, _BIN)]
        return files

    def missing_bytes(self) -> int:
        """Count the bytes that are still to be downloaded.

        Raises:
            DownloadError: the hub does not answer, or does not know or give the model.
        """
        if self.fault is None:
            return 0
        return sum(file.file_size or 0 for file in self._files if file.will_download)

    def run(self) -> Path:
        """Download what is missing, and check everything.

        Raises:
            DownloadError: the message says what to do.
        """
        if self.fault is None:
            return self.folder
        for part in (self.folder / ".cache/huggingface/download").glob("*.incomplete"):
            part.unlink(missing_ok=True)  # a killed run's, which the library does not resume
        self._transfer(
            revision=self._files[0].commit_hash if self._files else self.revision,
            allow_patterns=[file.filename for file in self._files],
            max_workers=_PARALLEL_FILES,
        )
        try:
            check_mplug_owl2(self.folder)
        except CheckpointError as error:
            raise DownloadError(
                f"{self.page} was downloaded, but is not a complete mPLUG-Owl2: {error} Delete "
                f"that file, or the folder, and run this again. {self.by_hand}"
            ) from error
        return self.folder

    def _transfer(self, **settings: Any) -> Any:
        try:
            return huggingface_hub.snapshot_download(
                self.repo, local_dir=self.folder, endpoint=self.endpoint, **settings
            )
        except Exception as error:  # the library raises errors of many kinds
            raise explain(error, self.repo, self.by_hand) from error


@dataclass(frozen=True)
class DriveDownload:
    """The authors' scorer for AGIQA-3k from Google Drive.

    Attributes:
        file: where it goes.
    """

    file: Path

    @property
    def by_hand(self) -> str:
        """How to do without this download."""
        return (
            f"By hand: open {_DRIVE_PAGE} in a browser and save the file as {self.file}, or give "
            "the saved file with --checkpoint."
        )

    @property
    def _unchecked(self) -> Path:
        return self.file.with_name(f"{self.file.name}.unchecked")

    def announcement(self) -> str:
        """What will happen. Needs no network."""
        if self.file.exists():
            return f"Scorer: {self.file} is already there; nothing to download."
        return (
            f"The authors' scorer for AGIQA-3k, {_CHECKPOINT_BYTES / 1e9:.2f} GB:\n"
            f"  from:     {_DRIVE_PAGE}\n"
            f"  to:       {self.file}\n"
            "  license:  not stated for the checkpoint (the authors' code: Apache-2.0)"
        )

    def missing_bytes(self) -> int:
        """Count the bytes that are still to be downloaded, by the published size."""
        if self.file.exists():
            return 0
        parts = self.file.parent.glob(f"{self._unchecked.name}*")
        return max(0, _CHECKPOINT_BYTES - sum(part.stat().st_size for part in parts))

    def run(self) -> Path:
        """Download the file unless it is there, and check it; only a good one gets its final name.

        Raises:
            DownloadError: the message says what to do.
        """
        if self.file.exists():
            found, remedy = self.file, f"Delete {self.file} and run this again."
        else:
            if not self._unchecked.exists():
                self._transfer()
            found, remedy = self._unchecked, "The file from Google Drive was deleted."
        try:
            check_checkpoint(found)
        except CheckpointError as error:
            self._unchecked.unlink(missing_ok=True)
            raise DownloadError(f"Not the checkpoint: {error} {remedy} {self.by_hand}") from error
        return found.replace(self.file)

    def _transfer(self) -> None:
        try:
            import gdown
        except ImportError as error:
            raise DownloadError(
                "The package gdown, which reads Google Drive, is not installed. Run "
                f"`pip install gdown` and then this again. {self.by_hand}"
            ) from error
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            gdown.download(
                id=_DRIVE_ID,
                output=str(self._unchecked),
                resume=True,
                quiet=not sys.stderr.isatty(),
                timeout=_TIMEOUT_S,
                retries=_RETRIES,
            )
        except Exception as error:  # the library raises errors of many kinds
            raise explain(error, "Google Drive", self.by_hand) from error


def fetch_weights(
    output: Path,
    embedder: str | None = None,
    checkpoint: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Path, Path]:
    """Check the weights that are given, and download the others.

    The checkpoint comes first: it is smaller, and more likely to be refused.

    Args:
        output: folder of the weights.
        embedder: folder of mPLUG-Owl2, or a hub id; by default the paper's.
        checkpoint: `.pt` file of the authors' code; by default theirs for AGIQA-3k.
        tell: gets texts about what will happen, before it does.

    Returns:
        The checkpoint's file and mPLUG-Owl2's folder.

    Raises:
        CheckpointError: weights that are given are not what they should be.
        ConfigError: `embedder` is neither a folder nor a hub id.
        DownloadError: a download is impossible; the message says what to do.
    """
    downloads: list[DriveDownload | HubDownload] = []
    if checkpoint is None:
        downloads.append(DriveDownload(output / CHECKPOINT_NAME))
        tell(downloads[-1].announcement())
    else:
        tell(f"Scorer: {checkpoint} is given; nothing to download.")
        check_checkpoint(checkpoint)
    folder = Path(embedder) if embedder and Path(embedder).is_dir() else None
    if folder is None:
        repo = embedder or PAPER_EMBEDDER
        if not _HUB_ID.fullmatch(repo):
            raise ConfigError(
                f"--embedder {repo}: there is no such folder, and it is no id of a model on the "
                "hub. Give a folder with config.json and the weight files, or an id such as "
                f"{PAPER_EMBEDDER}."
            )
        downloads.append(HubDownload(output / repo.split("/")[-1], repo))
        tell(downloads[-1].announcement())
    else:
        tell(f"mPLUG-Owl2: {folder} is given; nothing to download.")
        check_mplug_owl2(folder)
    if needed := require_space(output, downloads):
        tell(f"Still to be downloaded: {_gigabytes(needed)}. Ctrl-C stops; run again to resume.")
    paths = [download.run() for download in downloads]
    return checkpoint or paths[0], folder or paths[-1]


def require_space(output: Path, downloads: Sequence[DriveDownload | HubDownload]) -> int:
    """Make sure that what is still to be downloaded fits on the disk.

    Returns:
        The bytes still to be downloaded.

    Raises:
        DownloadError: they do not fit, or the hub does not tell the sizes.
    """
    missing = {download: download.missing_bytes() for download in downloads}
    needed = sum(missing.values())
    present = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    free = shutil.disk_usage(present).free
    if needed > free:
        by_hand = " ".join(download.by_hand for download, count in missing.items() if count)
        raise DownloadError(
            f"{_gigabytes(needed)} are still to be downloaded, but the disk of {output} has only "
            f"{_gigabytes(free)} free. Free some space, or give a folder on a larger disk with "
            f"--output. {by_hand}"
        )
    return needed


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
