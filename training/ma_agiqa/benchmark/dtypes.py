"""What a narrower dtype of the embedder costs in accuracy, on the user's own images."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ma_agiqa.benchmark.embedder import load, timed_pass
from ma_agiqa.images.views import RGB
from ma_agiqa.lmm.sources import embedder_config
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.pipeline import make_views, require_width


@dataclass(frozen=True)
class DtypeResult:
    """One dtype, compared with the reference.

    Attributes:
        dtype: format of the weights.
        weight_bytes: size of the weights.
        peak_bytes: peak memory while they were loaded.
        load_s: seconds to load them.
        seconds: time per image.
        cosine: smallest and mean cosine of an embedding with the reference's.
        score_difference: largest and mean absolute difference of a score (0 to 5); None without a
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
    images: Sequence[bytes | RGB],
    source: str,
    scorer: MAAGIQA | None,
    reference: str,
    others: Sequence[str],
    device: str,
    batch: int = 4,
) -> list[DtypeResult]:
    """Embed and score images at each dtype, with one embedder in memory at a time.

    Args:
        images: encoded files, or pixels as uint8 (height, width, 3), RGB.
        source: source of the embedder's weights, as `lmm.sources.build_embedder` takes it.
        scorer: the scorer in float32; None compares the embeddings alone.
        reference: dtype that the others are compared with.
        others: dtypes, of `lmm.sources.DTYPES`.
        device: device of the embedder.
        batch: number of images in a pass.

    Raises:
        ConfigError: the scorer takes embeddings of another width; see also
            `lmm.sources.build_embedder`.
        CheckpointError: see `lmm.sources.build_embedder`.
        ImageError: an image that cannot be scored.
    """
    config = embedder_config(source)
    if scorer is not None:
        require_width(scorer, config.hidden_size)
    quality, semantic = make_views(images, config.vision.image_size)
    runs: dict[str, _Run] = {}
    for dtype in dict.fromkeys((reference, *others)):
        runs[dtype] = _run(source, dtype, device, quality, semantic, scorer, batch)
        gc.collect()
    return [_compared(dtype, run, runs[reference]) for dtype, run in runs.items()]


@torch.inference_mode()
def _run(
    source: str,
    dtype: str,
    device: str,
    quality: Tensor,
    semantic: Tensor,
    scorer: MAAGIQA | None,
    batch: int,
) -> _Run:
    loaded = load(source, dtype, device)
    passes = [timed_pass(loaded, part) for part in semantic.split(batch)]
    features = {name: torch.cat([made[name] for _, made in passes]).cpu() for name in passes[0][1]}
    scores = None
    if scorer is not None:
        scores = scorer(quality, features["semantic"], features["coherence"]).score.flatten()
    return _Run(
        features,
        scores,
        weight_bytes=sum(t.nbytes for t in loaded.embedder.model.state_dict().values()),
        peak_bytes=loaded.load_peak_bytes,
        load_s=loaded.load_s,
        seconds=sum(seconds for seconds, _ in passes) / len(semantic),
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


def summary(results: Sequence[DtypeResult]) -> str:
    """Lay the results out as a table, one dtype per row."""
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
