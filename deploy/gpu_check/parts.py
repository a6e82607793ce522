"""The measurements of `check.py`, which starts a process for each: it prints rows as JSON lines."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from gpu_check.random_repository import write_random
from load.generator import measure
from load.images import read_images
from load.server import connect
from ma_agiqa.benchmark.embedder import load, measure_batch
from ma_agiqa.benchmark.machine import Row, describe, use_threads
from ma_agiqa.benchmark.scorer import measure_scorer, random_scorer
from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.lmm.sources import DEMO_EMBEDDER
from ma_agiqa.networks.scorer import MAAGIQAConfig

ROOT = Path(__file__).resolve().parents[2]
_IN_FLIGHT = (1, 8, 32, 64)
_ROUNDS = 5

Settings = Mapping[str, Any]


def weights(given: Settings) -> Iterator[Row]:
    """Write a repository, a checkpoint and mPLUG-Owl2 of random weights and full size."""
    write_random("paper", given["device"] == "cuda", given["dtype"], _random(given))
    yield {"note": f"written to {_random(given)}"}


def embedder(given: Settings) -> Iterator[Row]:
    """Time mPLUG-Owl2 at one dtype."""
    network, loading = load(_source(given), given["dtype"], given["device"])
    yield {"note": f"{describe(given['device'])}; loaded in {loading['load, s']:.0f} s"}
    for batch in given["batches"]:
        try:
            yield _speed(measure_batch(network, given["dtype"], batch, _ROUNDS))
        except torch.OutOfMemoryError:
            yield {"batch": batch, "note": "out of memory"}


def authors(given: Settings) -> Iterator[Row]:
    """Time the authors' extraction with the same weights, next to ours."""
    from official.authors import Authors
    from official.compare import compare_embedder

    source, how = Path(_source(given)), {"dtype": given["dtype"], "device": given["device"]}
    where = given["python"], Path(given["checkout"])
    with Authors("embedder", *where, weights=str(source), **how) as theirs:
        for batch in given["batches"]:
            row = compare_embedder(theirs, source, **how, batch=batch, rounds=_ROUNDS)
            note = f"{row['authors_s'] / row['ours_s']:.2f} times as long as ours"
            yield {"batch": batch, "images/s": 1 / row["authors_s"], "note": note}


def scorer(given: Settings) -> Iterator[Row]:
    """Time the scorer in one arithmetic."""
    dtype = None if given["dtype"] == "exact" else getattr(torch, given["dtype"])
    config = MAAGIQAConfig() if given["preset"] == "paper" else _demo_scorer()[0].config
    network = random_scorer(config, torch.device(given["device"]))
    for row in measure_scorer(network, given["batches"], dtype, _ROUNDS):
        change = row["score difference from the exact arithmetic"]
        yield {**_speed(row), "note": f"scores within {change:.1e} of the exact ones"}


def served(given: Settings) -> Iterator[Row]:
    """Time the ensemble over gRPC at several numbers of requests in flight."""
    paper = given["preset"] == "paper"
    repository = _random(given) / "repository" if paper else ROOT / "model_repository"
    files = [image.data for image in read_images((ROOT / "examples",))]
    with connect(None, repository) as (target, _):
        for count in _IN_FLIGHT:
            seen = measure(target, files, count, given["seconds"])
            row: Row = {"batch": count, "images/s": seen.images_per_s, "note": "in flight"}
            row |= {f"p{percent} ms": seen.percentile_ms(percent) for percent in (50, 99)}
            yield row | ({"GPU GB": _gpu_gb()} if given["device"] == "cuda" else {})


def tests(given: Settings) -> Iterator[Row]:
    """Run the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = (done.stdout.splitlines() or [done.stderr])[-1]
    yield {"note": said if done.returncode == 0 else f"failed: {said}"}


def _speed(row: Row) -> Row:
    return {
        "batch": row["batch"],
        "images/s": row["images/s"],
        "of GEMM, %": row["share of that, %"],
        "p50 ms": 1000 * float(row["s/image"]) * float(row["batch"]),
        "GPU GB": row["peak memory, GB"],
    }


def _random(given: Settings) -> Path:
    return Path(given["output"]) / "random"


def _source(given: Settings) -> str:
    return str(_random(given) / "weights") if given["preset"] == "paper" else DEMO_EMBEDDER


def _demo_scorer() -> Any:
    return load_scorer(ROOT / "training" / "checkpoints" / "demo")


def _gpu_gb() -> float:
    """Memory in use on the first GPU, of all processes."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    used = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return float(used) * 2**20 / 1e9


PARTS: Mapping[str, Callable[[Settings], Iterator[Row]]] = {
    part.__name__: part for part in (weights, embedder, authors, scorer, served, tests)
}

if __name__ == "__main__":
    use_threads(None)
    for measured in PARTS[sys.argv[1]](json.loads(sys.argv[2])):
        sys.stdout.write(f"{json.dumps(measured)}\n")
        sys.stdout.flush()  # what was measured stays if the process is ended
