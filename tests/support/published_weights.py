"""Weight files laid out as the published ones, and their downloads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ma_agiqa.checkpoints.downloads import (
    CHECKPOINT_NAME,
    DriveDownload,
    HubDownload,
    require_space,
)
from ma_agiqa.lmm.sources import PAPER_EMBEDDER

FOLDER_NAME = "mplug-owl2-llama2-7b"
INDEX = "pytorch_model.bin.index.json"
SHARDS = [f"pytorch_model-{i}-of-3.bin" for i in (1, 2, 3)]
WANTED = {
    "config.json",
    INDEX,
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
    *SHARDS,
}
WEB_PAGE = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"


def write_mplug_owl2(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> None:
    """Write a model in float16 .bin shards, among files that are not needed."""
    weight_map = {name: SHARDS[i * 3 // len(state)] for i, name in enumerate(state)}
    for shard in SHARDS:
        tensors = {name: v.half() for name, v in state.items() if weight_map[name] == shard}
        torch.save(tensors, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mplug_owl2"}))
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text("{}")
    for name in ("README.md", "training_args.bin", "optimizer.pt"):
        (folder / name).write_text("is not needed")


def write_small_checkpoint(path: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """Write tensors of these shapes in 1.3 MB: they all show one number of one storage."""
    number = torch.zeros(300_000)[0]
    torch.save({name: number.expand(*shape) for name, shape in shapes.items()}, path)
    return path


def fetch_mplug_owl2(output: Path, endpoint: str) -> Path:
    """Download as the command does, from a hub at this address."""
    download = HubDownload(output / FOLDER_NAME, PAPER_EMBEDDER, endpoint)
    require_space(output, [download])
    return download.run()


def fetch_checkpoint(output: Path) -> Path:
    """Download as the command does."""
    download = DriveDownload(output / CHECKPOINT_NAME)
    require_space(output, [download])
    return download.run()
