"""The two downloads of the paper's model: mPLUG-Owl2 from the hub, the scorer from Google Drive.

Both know without a network whether there is anything to do, tell the bytes that are missing
before they start, take up what an interrupted run left, and check what they fetched.
"""

import fnmatch
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import huggingface_hub

from ma_agiqa.checkpoints.download_errors import explain_drive, explain_hub
from ma_agiqa.checkpoints.weight_files import check_checkpoint, check_mplug_owl2
from ma_agiqa.errors import CheckpointError, DownloadError
from ma_agiqa.lmm.sources import PAPER_EMBEDDER

__all__ = ["DriveDownload", "HubDownload", "format_bytes"]

_DRIVE_ID = "1YT9Fryok-ozYPIvT1V3gEnEF-Ij3UxPp"
_DRIVE_PAGE = f"https://drive.google.com/file/d/{_DRIVE_ID}/view"
_CHECKPOINT_BYTES = 660_000_000  # 164.5 M parameters x 4 bytes, and their names

_OWL_SIZE = "16.4 GB"
_OWL_FILES = ("config.json", "*tokenizer*", "special_tokens_map.json", "*.index.json")
_SAFETENSORS, _BIN = "model*.safetensors", "pytorch_model*.bin"
_PARALLEL_FILES = 4  # of about 0.5 GB; those under way are lost when the download is interrupted

_TIMEOUT_S = 60.0
_RETRIES = 3


def format_bytes(count: int) -> str:
    """Write a number of bytes for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


@dataclass(frozen=True)
class HubDownload:
    """mPLUG-Owl2 from the Hugging Face hub.

    Attributes:
        folder: where its files go.
        repo: id of the model.
        endpoint: address of the hub; HF_ENDPOINT or the public one if not given.
    """

    folder: Path
    repo: str = PAPER_EMBEDDER
    endpoint: str | None = None

    @property
    def by_hand(self) -> str:
        """Tell how to do without this download."""
        return (
            "By hand: download config.json, the tokenizer's files and all weight files from "
            f"{self.page} into {self.folder}, or give the folder where they are with --owl."
        )

    @property
    def page(self) -> str:
        """Give the address of the model's page."""
        return f"{self.endpoint or huggingface_hub.constants.ENDPOINT}/{self.repo}"

    @cached_property
    def fault(self) -> str | None:
        """Say what the folder lacks; None if it is complete. Needs no network."""
        try:
            check_mplug_owl2(self.folder)
        except CheckpointError as error:
            return str(error)
        return None

    def announcement(self) -> str:
        """Tell what will happen. Needs no network."""
        if self.fault is None:
            return f"mPLUG-Owl2: {self.folder} is complete; nothing to fetch."
        size = f", {_OWL_SIZE}" if self.repo == PAPER_EMBEDDER else ""
        state = f"\n  so far:   {self.fault}" if self.folder.is_dir() else ""
        return (
            f"mPLUG-Owl2, the frozen multimodal model{size}:\n"
            f"  from:     {self.page}\n"
            f"  to:       {self.folder}{state}\n"
            "  license:  its language weights derive from LLaMA 2 and are under the LLaMA 2 "
            "Community License"
        )

    @cached_property
    def listing(self) -> tuple[str, Mapping[str, int]]:
        """Ask the hub for the commit, and for the sizes in bytes of the files that are needed.

        Raises:
            DownloadError: the hub does not answer, or does not know or give the model.
        """
        try:
            info = huggingface_hub.HfApi(endpoint=self.endpoint).model_info(
                self.repo, files_metadata=True, timeout=_TIMEOUT_S
            )
        except Exception as error:
            raise explain_hub(error, self.repo, self.by_hand) from error
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        weights = _SAFETENSORS if fnmatch.filter(sizes, _SAFETENSORS) else _BIN
        wanted = {
            name: size
            for name, size in sizes.items()
            if any(fnmatch.fnmatch(name, pattern) for pattern in (*_OWL_FILES, weights))
        }
        return info.sha or "main", wanted

    def missing_bytes(self) -> int:
        """Count the bytes that are still to be fetched.

        Raises:
            DownloadError: as `listing`.
        """
        if self.fault is None:
            return 0
        files = {self.folder / name: size for name, size in self.listing[1].items()}
        return sum(s for f, s in files.items() if not f.is_file() or f.stat().st_size != s)

    def run(self) -> Path:
        """Fetch what is missing, and check everything.

        Raises:
            DownloadError: it says what to do.
        """
        if self.fault is None:
            return self.folder
        commit, files = self.listing
        try:
            _discard_leftovers(self.folder)
            huggingface_hub.snapshot_download(
                self.repo,
                revision=commit,
                local_dir=self.folder,
                allow_patterns=list(files),
                max_workers=_PARALLEL_FILES,
                endpoint=self.endpoint,
            )
        except Exception as error:
            raise explain_hub(error, self.repo, self.by_hand) from error
        try:
            check_mplug_owl2(self.folder)
        except CheckpointError as error:
            raise DownloadError(
                f"{self.page} was fetched, but is not a complete mPLUG-Owl2: {error} Delete that "
                f"file, or the folder, and run this again. {self.by_hand}"
            ) from error
        return self.folder


def _discard_leftovers(folder: Path) -> None:
    """Remove parts of files that a killed run left; the hub's library never takes them up."""
    for part in (folder / ".cache" / "huggingface" / "download").glob("*.incomplete"):
        part.unlink(missing_ok=True)


@dataclass(frozen=True)
class DriveDownload:
    """The authors' scorer for AGIQA-3k from Google Drive.

    Attributes:
        file: where it goes.
    """

    file: Path

    @property
    def by_hand(self) -> str:
        """Tell how to do without this download."""
        return (
            f"By hand: open {_DRIVE_PAGE} in a browser and save the file as {self.file}, or give "
            "the saved file with --checkpoint."
        )

    @property
    def _unchecked(self) -> Path:
        return self.file.with_name(f"{self.file.name}.unchecked")

    def announcement(self) -> str:
        """Tell what will happen. Needs no network."""
        if self.file.exists():
            return f"Scorer: {self.file} is already there; nothing to fetch."
        return (
            f"The authors' scorer for AGIQA-3k, {format_bytes(_CHECKPOINT_BYTES)}:\n"
            f"  from:     {_DRIVE_PAGE}\n"
            f"  to:       {self.file}\n"
            "  license:  not stated for the checkpoint (the authors' code: Apache-2.0)"
        )

    def missing_bytes(self) -> int:
        """Count the bytes that are still to be fetched, by the published size."""
        if self.file.exists():
            return 0
        parts = self.file.parent.glob(f"{self._unchecked.name}*")
        return max(0, _CHECKPOINT_BYTES - sum(part.stat().st_size for part in parts))

    def run(self) -> Path:
        """Fetch the file unless it is there, and check it; only a good one gets its final name.

        Raises:
            DownloadError: it says what to do.
        """
        if self.file.exists():
            return self._checked_before()
        if not self._unchecked.exists():
            self._fetch()
        try:
            check_checkpoint(self._unchecked)
        except CheckpointError as error:
            self._unchecked.unlink()
            raise DownloadError(
                f"What Google Drive gave was deleted, it is not the checkpoint: {error} "
                f"{self.by_hand}"
            ) from error
        return self._unchecked.replace(self.file)

    def _checked_before(self) -> Path:
        try:
            check_checkpoint(self.file)
        except CheckpointError as error:
            raise DownloadError(
                f"{error} Delete {self.file} and run this again. {self.by_hand}"
            ) from error
        return self.file

    def _fetch(self) -> None:
        try:
            import gdown
        except ImportError as error:
            raise DownloadError(
                "The package gdown, which reads Google Drive, is not installed. Run "
                f"`pip install gdown` and then this again. {self.by_hand}"
            ) from error
        try:
            os.makedirs(self.file.parent, exist_ok=True)
            gdown.download(
                id=_DRIVE_ID,
                output=str(self._unchecked),
                resume=True,
                quiet=not sys.stderr.isatty(),
                timeout=_TIMEOUT_S,
                retries=_RETRIES,
            )
        except Exception as error:
            raise explain_drive(error, self.by_hand) from error
