"""Files of weights that others publish: where they belong on this machine, and how they get there.

Nothing is fetched unless that is asked for, so a machine without a network answers at once.
"""

import http.client
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from ma_agiqa.errors import DownloadError
from ma_agiqa.files import sha256

__all__ = ["HubFile", "UrlFile", "hub_offline", "require"]

_TIMEOUT_S = 20.0  # without an answer


@dataclass(frozen=True)
class UrlFile:
    """A file that its library keeps in a folder of its own.

    Attributes:
        path: where the library looks for it.
        url: where it comes from.
        sha256: of the file, where the library insists on it.
        also: another file that serves under this name.
    """

    path: Path
    url: str
    sha256: str | None = None
    also: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def fault(self) -> str | None:
        """What is wrong with the file on this machine; None if it can be used."""
        if not self.path.is_file():
            return "is not on this machine"
        if self.sha256 is not None and sha256(self.path) != self.sha256:
            return f"is another file than the published one (SHA-256 {self.sha256})"
        return None

    def advice(self) -> str:
        """How to get it by hand."""
        return f"put it at {self.path}, from {self.url}{self.also}"

    def fetch(self, progress: bool) -> None:
        """Download it; nothing half-fetched is left under its name."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_TIMEOUT_S)
        try:
            torch.hub.download_url_to_file(self.url, str(self.path), self.sha256, progress)
        finally:
            socket.setdefaulttimeout(before)


@dataclass(frozen=True)
class HubFile:
    """A file of a model on the Hugging Face hub, in the hub's cache."""

    repo: str
    name: str

    def fault(self) -> str | None:
        """What is wrong with the file on this machine; None if it can be used."""
        found = try_to_load_from_cache(self.repo, self.name)
        return None if isinstance(found, str) else "is not in the cache of the Hugging Face hub"

    def advice(self) -> str:
        """How to get it by hand."""
        return f"fetch it where there is a network, with `hf download {self.repo} {self.name}`"

    def fetch(self, progress: bool) -> None:
        """Download it into the cache."""
        hf_hub_download(self.repo, self.name)


def require(method: str, files: Sequence[UrlFile | HubFile], download: bool, progress: bool) -> str:
    """Make sure that all files of a method are there.

    Args:
        method: its name, for messages.
        files: that it needs.
        download: fetch those that are missing.
        progress: show bars on stderr.

    Returns:
        The names of the files, for the table.

    Raises:
        DownloadError: one is missing, and not to be fetched or not to be had; the message names
            the file, its place and its source.
    """
    for file in files:
        if (fault := file.fault()) is None:
            continue
        if not download:
            raise DownloadError(
                f"{method} needs {file.name}, which {fault}: {file.advice()}, or give --download."
            )
        try:
            file.fetch(progress)
        except (OSError, RuntimeError, http.client.HTTPException, HfHubHTTPError) as error:
            raise DownloadError(
                f"{method} needs {file.name}, which could not be fetched ({error}): "
                f"{file.advice()}."
            ) from error
    return ", ".join(file.name for file in files)


@contextmanager
def hub_offline() -> Iterator[None]:
    """Keep the hub's library to its cache: what is needed was seen to be there."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
