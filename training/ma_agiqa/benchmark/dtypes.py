"""What a narrower dtype of the embedder costs in accuracy, on the user's own images."""

import gc
import math
import time
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.benchmark.embedder import load
from ma_agiqa.benchmark.machine import Row, finish
from ma_agiqa.images.views import RGB
from ma_agiqa.lmm.mplug_owl2.quantization import QUANTIZED
from ma_agiqa.lmm.sources import embedder_config
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.pipeline import make_views, require_width

LARGEST = "score difference, largest"

LEAST: dict[str, float] = {
    "Pearson correlation of scores": 0.99,
    "pairs in the same order, %": 95.0,
    "best fifth in common, %": 80.0,
}
"""What quantized weights have to keep; chosen before any was measured."""

MOST: dict[str, float] = {LARGEST: 0.25}
"""What they may change, on the scale of 0 to 5."""

FEWEST_IMAGES = 20
"""Fewest images on which quantized weights are judged: a fifth of fewer is too few."""


@torch.inference_mode()
def measure_dtypes(
    images: Sequence[bytes | RGB],
    source: str,
    scorer: MAAGIQA | None,
    dtypes: Sequence[str],
    device: str,
    batch: int = 4,
) -> Iterator[Row]:
    """Embed and score images at each dtype, with one embedder in memory at a time.

    Args:
        images: encoded files, or pixels as uint8 (height, width, 3), RGB.
        source: source of the embedder's weights, as `lmm.sources.build_embedder` takes it.
        scorer: the scorer in float32; None compares the embeddings alone.
        dtypes: dtypes, of `lmm.sources.DTYPES`; the others are compared with the first.
        device: device of the embedder.
        batch: number of images in a pass.

    Yields:
        For each dtype: size and loading of the weights, time per image, smallest and mean cosine of
        an embedding with the first dtype's, and with a scorer the largest and mean absolute
        difference of a score (0 to 5), and what `LEAST` names.

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
    reference = None
    for dtype in dict.fromkeys(dtypes):
        embedder, loading = load(source, dtype, device)
        start = time.perf_counter()
        passes = [embedder(part) for part in semantic.split(batch)]
        finish(device)
        taken_s = time.perf_counter() - start
        made = {name: torch.cat([one[name] for one in passes]).cpu() for name in passes[0]}
        if scorer is not None:
            made["score"] = scorer(quality, made["semantic"], made["coherence"]).score
        reference = reference or made
        names = ("semantic", "coherence")
        cosine = torch.cat([F.cosine_similarity(made[n], reference[n], dim=1) for n in names])
        row: Row = {
            "dtype": dtype,
            "weights, GB": sum(t.nbytes for t in embedder.model.state_dict().values()) / 1e9,
            **loading,
            "s/image": taken_s / len(semantic),
            "cosine, smallest": cosine.min().item(),
            "cosine, mean": cosine.mean().item(),
        }
        if scorer is not None:
            apart = (made["score"] - reference["score"]).abs()
            row[LARGEST] = apart.max().item()
            row["score difference, mean"] = apart.mean().item()
            row |= compare_order(reference["score"].flatten(), made["score"].flatten())
        yield row
        del embedder
        gc.collect()


def compare_order(reference: Tensor, scores: Tensor) -> Row:
    """Compare how two sets of scores (N,) order the same images, by the names in `LEAST`.

    NaN where it is not defined, as for one image.
    """
    pearson = torch.corrcoef(torch.stack([reference, scores]))[0, 1] if len(scores) > 1 else None
    first, second = torch.triu_indices(len(scores), len(scores), offset=1)
    signs = [(one[first] - one[second]).sign() for one in (reference, scores)]
    same = (signs[0] == signs[1]).float().mean()
    best = max(1, len(scores) // 5)
    tops = [set(one.topk(best).indices.tolist()) for one in (reference, scores)]
    values = (
        math.nan if pearson is None else pearson.item(),
        100 * same.item(),
        100 * len(tops[0] & tops[1]) / best,
    )
    return dict(zip(LEAST, values, strict=True))


def refusals(rows: Sequence[Row]) -> list[str]:
    """Say which quantized dtypes change the scores too much, one sentence for each.

    Args:
        rows: those of `measure_dtypes` with a scorer.
    """
    found = []
    for row in rows[1:]:
        if row["dtype"] not in QUANTIZED:
            continue
        # Written so that NaN is a fault.
        faults = [
            f"{name} is {float(row[name]):.4g}, {wanted} {limit:g}"
            for wanted, limits in (("less than", LEAST), ("more than", MOST))
            for name, limit in limits.items()
            if not (float(row[name]) >= limit if limits is LEAST else float(row[name]) <= limit)
        ]
        if faults:
            found.append(f"{row['dtype']} changes scores too much: {'; '.join(faults)}.")
    return found
