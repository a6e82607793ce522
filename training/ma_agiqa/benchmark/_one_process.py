"""The served models called in one process: what a server is compared with."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ma_agiqa.errors import ConfigError
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.sources import build_embedder

__all__ = ["Layout", "OneProcess", "Rate"]


@dataclass(frozen=True, order=True)
class Layout:
    """How one process divides its work.

    Attributes:
        workers: batches that are computed at once.
        threads: of the CPU for each of them.
        batch: images in a batch.
    """

    workers: int
    threads: int
    batch: int

    def __str__(self) -> str:
        at_once = f"{self.workers} at once, " if self.workers > 1 else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"batch {self.batch}, {at_once}{threads} each"


@dataclass(frozen=True)
class Rate:
    """Images per second, and seconds of CPU time per image."""

    images_per_s: float
    cpu_s: float


class OneProcess:
    """Decoder, mPLUG-Owl2 and scorer of a model repository, called one after another.

    Everything is as the repository's configuration says: weights, dtype, device, the newest
    TorchScript file and how it is executed.
    """

    def __init__(self, repository: Path) -> None:
        """Load the models.

        Raises:
            ConfigError: the folder is not a repository of these models.
            CheckpointError: the weights of mPLUG-Owl2 cannot be had.
        """
        owl, scorer = (_read_config(repository, name) for name in ("mplug_owl2", "maniqa_moe"))
        on_gpu = owl.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self._embedder: Any = build_embedder(
            owl.parameters["embedder"].string_value,
            self.device,
            owl.parameters["dtype"].string_value,
        )
        self._optimized = not _is_on(scorer, "DISABLE_OPTIMIZED_EXECUTION")
        file = _newest_version(repository / "maniqa_moe") / "model.pt"
        self._scorer = torch.jit.load(file, map_location=self.device)
        self._view_size = owl.input[0].dims[0]
        self.max_batch_size: int = owl.max_batch_size
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def score(self, files: Sequence[bytes]) -> np.ndarray:
        """Score one batch of encoded images; float32 (B,)."""
        views = list(self._pool.map(self._views, files))
        quality, semantic = (torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True))
        with torch.inference_mode(), torch.jit.optimized_execution(self._optimized):
            embeddings = self._embedder(semantic.to(self.device))
            results = self._scorer(
                quality.to(self.device), embeddings["semantic"], embeddings["coherence"]
            )
            return results[0].cpu().numpy().ravel()

    def time(self, files: Sequence[bytes], layout: Layout, seconds: float) -> Rate:
        """Score batches for about `seconds`, after one that is not counted."""
        batches = [files[i : i + layout.batch] for i in range(0, len(files), layout.batch)]
        batches = [batch for batch in batches if len(batch) == layout.batch]
        end = 0.0

        def work(worker: int) -> int:
            count = 0
            while count == 0 or time.perf_counter() < end:
                count += len(self.score(batches[(worker + count) % len(batches)]))
            return count

        with ThreadPoolExecutor(
            layout.workers, initializer=torch.set_num_threads, initargs=(layout.threads,)
        ) as pool:
            list(pool.map(work, range(layout.workers)))
            start, start_cpu = time.perf_counter(), time.process_time()
            end = start + seconds
            count = sum(pool.map(work, range(layout.workers)))
            elapsed, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        return Rate(count / elapsed, cpu / count)

    def _views(self, file: bytes) -> tuple[np.ndarray, np.ndarray]:
        rgb = decode(file)
        return quality_view(rgb), semantic_view(rgb, self._view_size)


def _read_config(repository: Path, model: str) -> Any:
    file = repository / model / "config.pbtxt"
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}. Give a repository written by export/to_triton.py."
        ) from error


def _newest_version(folder: Path) -> Path:
    versions = [path for path in folder.iterdir() if path.name.isdigit()]
    if not versions:
        raise ConfigError(
            f"{folder} has no version of the scorer. Run `python export/to_triton.py` first."
        )
    return max(versions, key=lambda path: int(path.name))


def _is_on(config: Any, parameter: str) -> bool:
    return config.parameters[parameter].string_value.lower() in ("true", "on", "1")
