"""The weight files of mPLUG-Owl2: reading the hub's shards tensor by tensor, and writing them."""

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.hub import cached_file

from ma_agiqa.errors import CheckpointError

_WHOLE = ("model.safetensors", "pytorch_model.bin")  # in the order of preference
_SHARD_BYTES = 2 * 2**30
_OTHER_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
)

Named = tuple[str, Tensor]


def read_tensors(source: str, stay_mapped: bool) -> Iterator[Named]:
    """Read a checkpoint tensor by tensor; each is in the mapped file until it is copied.

    Args:
        source: a hub id or a local folder, with safetensors or .bin files, whole or in shards.
        stay_mapped: whether the tensors are kept as they are. If not, a file is mapped again for
            every tensor, so that what was read leaves the memory once it is copied.

    Yields:
        Names as in the files, and tensors on the CPU.

    Raises:
        CheckpointError: there are no weight files, or a file lacks what the index names.
    """
    for file in weight_files(source):
        if file.suffix == ".safetensors":
            yield from _read_safetensors(file, stay_mapped)
        else:
            mapped = zipfile.is_zipfile(file)  # older files can only be read as a whole
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
            yield from state.items()


def weight_files(source: str) -> list[Path]:
    """Find a checkpoint's weight files; those of the hub are downloaded if they are not there.

    Raises:
        CheckpointError: there are none, one is missing, or their index is damaged.
    """
    for whole in _WHOLE:
        if file := _find(source, whole):
            return [file]
        if index := _find(source, f"{whole}.index.json"):
            return [_found(source, name) for name in sorted(set(_read_index(index).values()))]
    raise CheckpointError(
        f"{source} has no weights: neither {' nor '.join(_WHOLE)}, nor an index of shards."
    )


def config_file(source: str) -> Path:
    """Find a checkpoint's config.json.

    Raises:
        CheckpointError: there is none.
    """
    return _found(source, "config.json")


def read_tensor(source: str, name: str) -> Tensor:
    """Read one tensor of a checkpoint, on the CPU; it stays in the mapped file.

    Raises:
        CheckpointError: there are no weight files, or none has the tensor.
    """
    for found, tensor in read_tensors(source, stay_mapped=True):
        if found == name:
            return tensor
    raise CheckpointError(f"{source} has no tensor {name}.")


def convert_weights(source: str, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint as safetensors of one dtype, which a CPU uses straight from the disk.

    Args:
        source: hub id or local folder.
        folder: where the files go, with config.json and the tokenizer's files; it is made.
        dtype: dtype of every tensor of floating-point numbers.

    Raises:
        CheckpointError: the source has no weights or no config.json.
    """
    settings = json.loads(config_file(source).read_text(encoding="utf-8"))
    settings["torch_dtype"] = str(dtype).removeprefix("torch.")
    tensors = (
        (name, value.to(dtype) if value.is_floating_point() else value)
        for name, value in read_tensors(source, stay_mapped=False)
    )
    write_tensors(folder, settings, tensors)
    for name in _OTHER_FILES:
        if file := _find(source, name):
            shutil.copyfile(file, folder / name)


def write_tensors(folder: Path, settings: dict, tensors: Iterable[Named]) -> None:
    """Write config.json, safetensors shards of about 2 GB and, last, their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    places: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    for name, value in tensors:
        shard[name] = value.contiguous()
        if sum(tensor.nbytes for tensor in shard.values()) >= _SHARD_BYTES:
            _write_shard(folder, shard, places)
    _write_shard(folder, shard, places)
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{_WHOLE[0]}.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_shard(folder: Path, shard: dict[str, Tensor], places: dict[str, str]) -> None:
    """Write the tensors collected so far, if any, and drop them."""
    if shard:
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # a server may run as another user
        places.update(dict.fromkeys(shard, name))
        shard.clear()


def _read_safetensors(file: Path, stay_mapped: bool) -> Iterator[Named]:
    with safe_open(file, framework="pt") as tensors:
        names = list(tensors.keys())
        if stay_mapped:
            yield from ((name, tensors.get_tensor(name)) for name in names)
            return
    for name in names:
        with safe_open(file, framework="pt") as tensors:
            yield name, tensors.get_tensor(name)


def _read_index(path: Path) -> dict[str, str]:
    """Read which file holds each tensor."""
    try:
        return {str(k): str(v) for k, v in json.loads(path.read_bytes())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of weight files, or is damaged.") from error


def _find(source: str, name: str) -> Path | None:
    found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def _found(source: str, name: str) -> Path:
    found = _find(source, name)
    if found is None:
        raise CheckpointError(f"{source}: {name} is missing. Download the checkpoint again.")
    return found
