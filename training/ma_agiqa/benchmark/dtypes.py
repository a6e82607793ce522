"""What a narrower dtype of mPLUG-Owl2 costs in accuracy, on the user's own images."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from ma_agiqa.benchmark.embedder import load, timed_pass
from ma_agiqa.benchmark.machine import describe, use_threads
from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.commands._shared import Command
from ma_agiqa.commands.benchmark_embedder import (
    device_option,
    dtype_choice,
    long_name,
    threads_option,
)
from ma_agiqa.errors import ConfigError
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, embedder_config
from ma_agiqa.networks.scorer import MAAGIQA

__all__ = ["DtypeResult", "dtypes", "measure_dtypes"]

_EPILOG = """\b
Examples:
  python -m ma_agiqa benchmark dtypes my_images/*.png
  python -m ma_agiqa benchmark dtypes --owl weights/mplug-owl2-llama2-7b \\
      --checkpoint AGIQA_3k.pt --reference bf16 --dtype int8 --dtype int4 my_images/*.png
"""


@dataclass(frozen=True)
class DtypeResult:
    """One dtype, compared with the reference.

    Attributes:
        dtype: what the weights were kept in.
        weight_bytes: of the weights.
        peak_bytes: most memory in use while they were loaded.
        load_s: seconds to load.
        seconds: per image.
        cosine: smallest and mean cosine of an embedding with the reference's.
        score_difference: largest and mean absolute difference of a score (0 to 5), None without a
            scorer.
    """

    dtype: str
    weight_bytes: int
    peak_bytes: int
    load_s: float
    seconds: float
    cosine: tuple[float, float]
    score_difference: tuple[float, float] | None


@dataclass(frozen=True)
class _Run:
    features: dict[str, Tensor]
    scores: Tensor | None
    weight_bytes: int
    peak_bytes: int
    load_s: float
    seconds: float


def measure_dtypes(
    images: Sequence[np.ndarray],
    owl: str,
    scorer: MAAGIQA | None,
    reference: str,
    others: Sequence[str],
    device: str,
    batch: int = 4,
) -> list[DtypeResult]:
    """Embed and score images at each dtype, one model in memory at a time.

    Args:
        images: decoded, uint8 (H, W, 3), RGB.
        owl: source of mPLUG-Owl2, as `lmm.sources.build_embedder` takes it.
        scorer: of the embeddings, in float32; None compares embeddings alone.
        reference: dtype that the others are compared with.
        others: dtypes, of `lmm.sources.DTYPES`.
        device: where the models run.
        batch: images of a pass.

    Raises:
        CheckpointError, ConfigError: see `lmm.sources.build_embedder`.
    """
    size = embedder_config(owl).vision.image_size
    views = torch.from_numpy(np.stack([semantic_view(image, size) for image in images]))
    quality = torch.from_numpy(np.stack([quality_view(image) for image in images]))
    runs: dict[str, _Run] = {}
    for dtype in dict.fromkeys((reference, *others)):
        runs[dtype] = _run(owl, dtype, device, views, quality, scorer, batch)
        gc.collect()
    return [_compared(dtype, run, runs[reference]) for dtype, run in runs.items()]


@torch.inference_mode()
def _run(
    owl: str,
    dtype: str,
    device: str,
    views: Tensor,
    quality: Tensor,
    scorer: MAAGIQA | None,
    batch: int,
) -> _Run:
    loaded = load(owl, dtype, device)
    passes = [timed_pass(loaded, part) for part in views.split(batch)]
    features = {name: torch.cat([made[name] for _, made in passes]).cpu() for name in passes[0][1]}
    scores = None
    if scorer is not None:
        scores = scorer(quality, features["semantic"], features["coherence"])[0].flatten()
    return _Run(
        features,
        scores,
        sum(value.nbytes for value in loaded.embedder.model.state_dict().values()),
        loaded.load_peak_bytes,
        loaded.load_s,
        sum(seconds for seconds, _ in passes) / len(views),
    )


def _compared(dtype: str, run: _Run, reference: _Run) -> DtypeResult:
    cosines = torch.cat(
        [
            torch.nn.functional.cosine_similarity(run.features[name], expected, dim=1)
            for name, expected in reference.features.items()
        ]
    )
    difference = None
    if run.scores is not None and reference.scores is not None:
        apart = (run.scores - reference.scores).abs()
        difference = (apart.max().item(), apart.mean().item())
    return DtypeResult(
        dtype,
        run.weight_bytes,
        run.peak_bytes,
        run.load_s,
        run.seconds,
        (cosines.min().item(), cosines.mean().item()),
        difference,
    )


@click.command(cls=Command, epilog=_EPILOG)
@click.argument(
    "images",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--owl", default=DEMO_EMBEDDER, show_default=True, help="Hub id or folder of mPLUG-Owl2."
)
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, path_type=Path),
    help="Scorer: a folder of ours or a .pt file of the authors'. Without it, embeddings alone.",
)
@click.option(
    "--reference",
    type=dtype_choice,
    help="What to compare with. Default: fp32 for the demo, else bf16 on a CPU and fp16 on a GPU.",
)
@click.option(
    "--dtype",
    "others",
    type=dtype_choice,
    multiple=True,
    default=["bf16", "int8", "int4"],
    show_default=True,
    help="To compare; repeatable.",
)
@device_option
@threads_option
def dtypes(
    images: tuple[Path, ...],
    owl: str,
    checkpoint: Path | None,
    reference: str | None,
    others: tuple[str, ...],
    device: str,
    threads: int | None,
) -> None:
    """Compare dtypes of mPLUG-Owl2 on your own images: memory, time, embeddings and scores."""
    use_threads(threads)
    if reference is None:
        wide = "fp16" if device.startswith("cuda") else "bf16"
        reference = "fp32" if owl == DEMO_EMBEDDER else wide
    pixels = [decode(path.read_bytes()) for path in images]
    scorer = None if checkpoint is None else _scorer(checkpoint, owl)
    results = measure_dtypes(
        pixels, owl, scorer, long_name(reference), [long_name(name) for name in others], device
    )
    click.echo(f"machine  {describe(device)}; {len(images)} images, against {reference}")
    click.echo(_table(results))


def _scorer(checkpoint: Path, owl: str) -> MAAGIQA:
    """Read a scorer that fits the embeddings.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: it takes embeddings of another width.
    """
    scorer, _ = load_scorer(checkpoint)
    width = embedder_config(owl).hidden_size
    if scorer.config.semantic_dim != width:
        raise ConfigError(
            f"--checkpoint takes embeddings of width {scorer.config.semantic_dim}; {owl} gives "
            f"{width}. Give the --owl that it was trained with."
        )
    return scorer.eval()


def _table(results: Sequence[DtypeResult]) -> str:
    rows: list[Mapping[str, str]] = [
        {
            "dtype": result.dtype,
            "weights": f"{result.weight_bytes / 1e9:.2f} GB",
            "peak": f"{result.peak_bytes / 1e9:.2f} GB",
            "load": f"{result.load_s:.1f} s",
            "s/image": f"{result.seconds:.3f}",
            "cosine min, mean": "{:.5f}, {:.5f}".format(*result.cosine),
            "score difference max, mean": "-"
            if result.score_difference is None
            else "{:.4f}, {:.4f}".format(*result.score_difference),
        }
        for result in results
    ]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    lines = [{name: name for name in widths}, *rows]
    texts = ("  ".join(line[n].ljust(w) for n, w in widths.items()) for line in lines)
    return "\n".join(text.rstrip() for text in texts)
