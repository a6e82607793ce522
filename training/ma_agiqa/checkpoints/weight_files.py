"""Whether weight files on disk are complete, by names and shapes alone.

No tensor's values are read, so that 16 GB are checked in seconds.
"""

import zipfile
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ma_agiqa.checkpoints.official import load_official, read_official
from ma_agiqa.errors import CheckpointError
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.weight_files import weight_files
from ma_agiqa.lmm.sources import embedder_config


def check_checkpoint(path: Path) -> None:
    """Check a `.pt` file of the authors' code: every name and shape of the published sizes.

    Raises:
        CheckpointError: missing, damaged, or of another model.
    """
    state = {name: value.to("meta") for name, value in read_official(path).items()}
    with torch.device("meta"):
        load_official(state)


def check_mplug_owl2(folder: Path) -> None:
    """Check a folder of mPLUG-Owl2: config.json, every weight file, every name and shape.

    Raises:
        CheckpointError: a file is missing, empty or damaged, or the tensors do not fit the sizes
            in config.json.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json.")
    state: dict[str, Tensor] = {}
    for file in weight_files(str(folder)):
        state |= _read_shapes(file)
    with torch.device("meta"):
        MPlugOwl2Model.from_official(embedder_config(str(folder)), state)


def _read_shapes(path: Path) -> dict[str, Tensor]:
    """Read a weight file's names and shapes, as tensors without values."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {
                    name: torch.empty(file.get_slice(name).get_shape(), device="meta")
                    for name in file.keys()  # noqa: SIM118  (not a mapping)
                }
        is_zip = zipfile.is_zipfile(path)  # older files can only be read as a whole
        return dict(torch.load(path, map_location="meta", weights_only=True, mmap=is_zip))
    except Exception as error:  # both readers raise errors of every kind on a damaged file
        raise CheckpointError(
            f"{path} is not a weight file, or only a part of one ({path.stat().st_size:,} bytes; "
            "a file of a few KB is a web page or a pointer of git-lfs)."
        ) from error
