"""The shipped repository behind the real Triton, against the same networks in this process."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ma_agiqa.checkpoints import checkpoint_sha256, load_scorer
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.networks.scorer import ScorerOutput
from support.pictures import encoded, noise
from support.triton_requests import infer, statistics

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "training" / "checkpoints" / "demo"
EXAMPLES = sorted(p for p in (ROOT / "examples").iterdir() if p.suffix != ".md")
OUTPUTS = ("SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT")
TOLERANCE = 1e-4  # of MOS, and of the gate and the maps


@pytest.fixture(scope="module")
def in_process():
    model, _ = load_scorer(CHECKPOINT)
    embedder = build_embedder("demo")

    @torch.inference_mode()
    def score(files: list[bytes]) -> ScorerOutput:
        images = [decode(file) for file in files]
        quality = torch.from_numpy(np.stack([quality_view(rgb) for rgb in images]))
        views = [semantic_view(rgb, embedder.image_size) for rgb in images]
        embeddings = embedder(torch.from_numpy(np.stack(views)))
        return model(quality, embeddings["semantic"], embeddings["coherence"])

    return score


def test_served_equals_in_process(client, in_process):
    """Images alone, and several in one request."""
    files = [path.read_bytes() for path in EXAMPLES]
    odd = encoded(noise(1, 40, 90)), encoded(noise(2, 300, 7))
    for sent in (*([file] for file in (*files, *odd)), files[:5]):
        served, expected = infer(client, *sent), in_process(sent)
        for name, tensor in zip(OUTPUTS, expected, strict=True):
            np.testing.assert_allclose(served[name], tensor.numpy(), atol=TOLERANCE)


def test_the_pristine_example_ranks_above_its_degraded_versions(client):
    scores = {path.stem: infer(client, path.read_bytes())["SCORE"].item() for path in EXAMPLES}
    pristine = [name for name in scores if name.endswith("_pristine")]
    assert len(pristine) >= 2
    for name in pristine:
        subject = name.removesuffix("_pristine")
        degraded = [other for other in scores if other.startswith(subject) and other != name]
        assert degraded
        assert all(scores[name] > scores[other] for other in degraded), subject


def test_the_card_names_the_shipped_checkpoint(client):
    parameters = client.get_model_config("ma_agiqa").config.parameters
    assert parameters["checkpoint_sha256"].string_value == checkpoint_sha256(CHECKPOINT)
    assert "demo" in parameters["note"].string_value.lower()


def executions(found) -> dict[int, int]:
    """Executions by batch size, of a model's statistics."""
    return {batch.batch_size: batch.compute_infer.count for batch in found.batch_stats}


def test_200_concurrent_requests_of_mixed_sizes_are_batched(client, record_property):
    sizes = np.random.default_rng(0).integers(16, 500, (200, 2))
    files = [encoded(noise(seed, height, width)) for seed, (height, width) in enumerate(sizes)]
    models = ("preprocess", "mplug_owl2", "maniqa_moe")
    before = {model: statistics(client, model) for model in models}
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda file: infer(client, file), files))
    assert all(np.isfinite(answer["SCORE"]).all() for answer in answers)
    for model in models:
        expected = before[model].inference_count + 200
        after = statistics(client, model, lambda found, n=expected: found.inference_count >= n)
        run = Counter(executions(after))
        run.subtract(executions(before[model]))
        run = {size: count for size, count in run.items() if count}
        record_property(f"{model} executions by batch size", str(run))
        assert sum(size * count for size, count in run.items()) == 200
        assert max(run) > 1, f"{model} batched nothing: {run}"
