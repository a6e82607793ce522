"""The hash that names an embedding model's weights, without loading them."""

import hashlib
import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from ma_agiqa.errors import CheckpointError
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.mplug_owl2.weight_files import weight_files
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, demo_recipe


def weights_sha256(source: str, hashes: FileHashes) -> str | None:
    """Hash of all that determines an embedder's outputs, except the dtype of its weights.

    For the demo that is the recipe of its random weights; for a folder or a hub id, config.json
    and the weight files that would be loaded, as they are on this machine. Nothing is downloaded.

    Args:
        source: `DEMO_EMBEDDER`, a hub id or a folder, as `lmm.sources.build_embedder` takes it.
        hashes: known hashes, so that unchanged files (16 GB for the paper's model) are not read.

    Returns:
        SHA-256 in hexadecimal; None if the files are not on this machine.

    Raises:
        CheckpointError: a weight file cannot be read.
    """
    digest = hashlib.sha256()
    if source == DEMO_EMBEDDER:
        digest.update(json.dumps(demo_recipe(), sort_keys=True).encode())
        return digest.hexdigest()
    try:
        folder = _local_folder(source)
        files = [folder / "config.json", *weight_files(str(folder))]
        for file in files:
            digest.update(f"{file.name} {hashes.sha256(file)}\n".encode())
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError, CheckpointError):
        return None
    except OSError as error:
        raise CheckpointError(
            f"Cannot read the weights of {source!r}: {error.filename}: {error.strerror}."
        ) from error
    return digest.hexdigest()


def _local_folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(source, local_files_only=True))
