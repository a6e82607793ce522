"""The shipped repository with an mPLUG-Owl2 that has words, if random ones."""

import shutil
from pathlib import Path
from typing import Any

from exporter import versions
from exporter.config import WARMUP_IMAGE, DeploymentSettings, repository_configs
from ma_agiqa.tensors import tensor_specs
from support.llama_tokenizer import write_tokenizer
from support.published_weights import write_mplug_owl2
from support.servers import SHIPPED


def write_worded_owl(folder: Path, tiny_owl: dict[str, Any]) -> Path:
    """Write the small mPLUG-Owl2 as the hub's folder, with a tokenizer. It never ends an answer."""
    config = {**tiny_owl["config"], "max_position_embeddings": 2048}
    write_mplug_owl2(folder, config, tiny_owl["state"])
    write_tokenizer(folder)
    return folder


def write_worded_repository(folder: Path, mplug_owl2: Path) -> Path:
    """Write the repository; the shipped scorer takes embeddings of this model's width."""
    shutil.copytree(SHIPPED, folder)
    card = versions.card_of(folder, 1)
    embedder = {"embedder": str(mplug_owl2), "dtype": "float32"}
    settings = DeploymentSettings(embedder, False, 1000, warmup_batches=(1,))
    configs = repository_configs(tensor_specs(112, 128, 224, 7), card, settings)
    for config in configs.values():
        versions.write_config(folder, config)
    assert (folder / "preprocess" / "warmup" / WARMUP_IMAGE).is_file()
    return folder
