"""Whether weight files on disk are what they should be, from names and shapes alone.

No tensor's values are read, so that 16 GB are checked in seconds.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ma_agiqa.checkpoints.official import load_official, read_official
from ma_agiqa.errors import CheckpointError
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.sources import embedder_config

__all__ = ["check_checkpoint", "check_mplug_owl2"]

_WHOLE = ("model.safetensors", "pytorch_model.bin")


def check_checkpoint(path: Path) -> None:
    """Check a `.pt` file of the authors' code: every name and shape of the published sizes.

    Raises:
        CheckpointError: missing, damaged, or of another model.
    """
    state = {name: value.to("meta") for name, value in read_official(path).items()}
    with torch.device("meta"):
        load_official(state)


def check_mplug_owl2(folder: Path) -> None:
    """Check a folder of mPLUG-Owl2: config.json, every shard, every name and shape.

    Raises:
        CheckpointError: a file is missing, empty or damaged, or the tensors do not fit the sizes
            in config.json.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json.")
    config = embedder_config(str(folder))
    state: dict[str, Tensor] = {}
    for name, tensors in _weight_map(folder).items():
        shard = _read_shapes(folder / name)
        if missing := sorted(set(tensors) - shard.keys()):
            raise CheckpointError(
                f"{folder / name} lacks {len(missing)} tensors that the index names, such as "
                f"{missing[0]}."
            )
        state |= shard
    with torch.device("meta"):
        MPlugOwl2Model.from_official(config, state)


def _weight_map(folder: Path) -> dict[str, list[str]]:
    """Find the weight files, with the tensors that the index expects in each.

    The order of preference is that of transformers.
    """
    for whole in _WHOLE:
        if (folder / whole).exists():
            return {whole: []}
        index = folder / f"{whole}.index.json"
        if index.exists():
            return _read_index(index)
    raise CheckpointError(
        f"{folder} has no weights: neither {' nor '.join(_WHOLE)} nor an index of shards "
        "(*.index.json)."
    )


def _read_index(path: Path) -> dict[str, list[str]]:
    try:
        places: Mapping[str, str] = json.loads(path.read_bytes())["weight_map"]
        shards: dict[str, list[str]] = {}
        for tensor, shard in places.items():
            shards.setdefault(Path(shard).name, []).append(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of weight files, or is damaged.") from error
    return shards


def _read_shapes(path: Path) -> dict[str, Tensor]:
    """Read a weight file's names and shapes, as tensors without values.

    Raises:
        CheckpointError: missing, empty or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    size = path.stat().st_size
    if not size:
        raise CheckpointError(f"{path} is empty.")
    try:
        return _safetensors_shapes(path) if path.suffix == ".safetensors" else _bin_shapes(path)
    except Exception as error:  # both readers raise errors of every kind on a damaged file
        raise CheckpointError(
            f"{path} is not a weight file, or only a part of one ({size:,} bytes; a file of a few "
            "KB is a web page or a pointer of git-lfs)."
        ) from error


def _safetensors_shapes(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {
            name: torch.empty(file.get_slice(name).get_shape(), device="meta")
            for name in file.keys()  # noqa: SIM118  (not a mapping)
        }


def _bin_shapes(path: Path) -> dict[str, Tensor]:
    is_zip = zipfile.is_zipfile(path)  # older files can only be read as a whole
    state: dict[str, Any] = torch.load(path, map_location="meta", weights_only=True, mmap=is_zip)
    return dict(state.items())
