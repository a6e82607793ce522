"""The hash that names an embedder's weights, without loading them."""

import hashlib
import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from ma_agiqa.errors import CheckpointError
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.files import write_whole
from ma_agiqa.lmm.mplug_owl2.quantization import QUANTIZED
from ma_agiqa.lmm.mplug_owl2.weight_files import weight_files
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, DTYPES, demo_recipe

_CONVERSION = "conversion.json"


def weights_sha256(source: str, hashes: FileHashes, dtype: str | None = None) -> str | None:
    """Hash of what decides an embedder's numbers, but for the dtype of its weights.

    For the demo that is the recipe of its random weights; for a folder or a hub id, config.json
    and the weight files that would be loaded, as they are on this machine. Nothing is downloaded.
    A folder that `python -m ma_agiqa mplug-owl2` converted has the hash of what it was made from,
    as long as its files are those that were written then, if it is used in the dtype that it was
    converted to or in a quantized one.

    Args:
        source: `DEMO_EMBEDDER`, a hub id or a folder, as `lmm.sources.build_embedder` takes it.
        hashes: spares reading the files (16 GB for the paper's model) when they have not changed.
        dtype: what the weights will be kept in, one of `lmm.sources.DTYPES`; None if not known.

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
    hashes.save()
    return _origin(folder, digest.hexdigest(), dtype)


def note_conversion(folder: Path, source: str, dtype: str, hashes: FileHashes) -> None:
    """Record in a converted folder which weights it was made from.

    Args:
        folder: the new folder, complete.
        source: what was converted.
        dtype: the floating-point dtype of the new files.
        hashes: hashes of files that are known.
    """
    noted = {
        "source": source,
        "source_sha256": weights_sha256(source, hashes, dtype),
        "dtype": dtype,
        "files_sha256": weights_sha256(str(folder), hashes),
    }
    write_whole(folder / _CONVERSION, json.dumps(noted, indent=2) + "\n")


def _origin(folder: Path, digest: str, dtype: str | None) -> str:
    """The hash of what a folder was converted from, where that decides its numbers."""
    try:
        noted = json.loads((folder / _CONVERSION).read_text(encoding="utf-8"))
        same = noted["files_sha256"] == digest and noted["source_sha256"]
        lossless = noted["dtype"] == "float32" and dtype in DTYPES
        if same and (lossless or dtype == noted["dtype"] or dtype in QUANTIZED):
            return str(noted["source_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return digest


def _local_folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(source, local_files_only=True))
