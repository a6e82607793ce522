#!/usr/bin/env python3
# ruff: noqa: T201 - this is a command, and printing is its purpose
"""Compare `Scorer.score_many` with the best plain tritonclient loop on the same server.

    python client/benchmarks/throughput.py --url localhost:8001
    python client/benchmarks/throughput.py            # starts the server of this clone

Each contestant scores the same images in every round, in an order that changes, so that whatever
else the machine does falls on all of them alike. The last line is score_many's share of the loop
that has the highest median: the median over the rounds of the two rates' quotient.
"""

import argparse
import io
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import tritonclient.grpc
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ma_agiqa_client import Scorer
from ma_agiqa_client._programs.embedded import embedded_server, find_serve_script

Contestant = Callable[[list[bytes]], int]


def picture(seed: int, side: int) -> np.ndarray:
    """Coarse colored noise, side x side."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return small.repeat(8, 0).repeat(8, 1)


def jpeg(pixels: np.ndarray) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def image_input(files: list[bytes]) -> list[tritonclient.grpc.InferInput]:
    """The input of one request with several images."""
    tensor = np.empty((len(files), 1), np.object_)
    tensor[:, 0] = files
    given = tritonclient.grpc.InferInput("IMAGE", [len(files), 1], "BYTES")
    given.set_data_from_numpy(tensor)
    return [given]


def plain_threads(client: tritonclient.grpc.InferenceServerClient, width: int) -> Contestant:
    """`infer` on as many threads, one image in each request."""
    outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in ("SCORE", "GATE")]

    def one(file: bytes) -> float:
        answer = client.infer("ma_agiqa", image_input([file]), outputs=outputs)
        return float(answer.as_numpy("SCORE")[0, 0])

    def score(files: list[bytes]) -> int:
        with ThreadPoolExecutor(width) as pool:
            return len(list(pool.map(one, files)))

    return score


def plain_batches(
    client: tritonclient.grpc.InferenceServerClient, width: int, size: int
) -> Contestant:
    """`infer` with several images in each request; one bad image would fail all of them."""
    outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in ("SCORE", "GATE")]

    def several(files: list[bytes]) -> int:
        answer = client.infer("ma_agiqa", image_input(files), outputs=outputs)
        return len(answer.as_numpy("SCORE"))

    def score(files: list[bytes]) -> int:
        batches = [files[start : start + size] for start in range(0, len(files), size)]
        with ThreadPoolExecutor(width // size) as pool:
            return sum(pool.map(several, batches))

    return score


def plain_async(client: tritonclient.grpc.InferenceServerClient, width: int) -> Contestant:
    """`async_infer` with as many requests under way, one image in each."""
    outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in ("SCORE", "GATE")]

    def score(files: list[bytes]) -> int:
        room = threading.Semaphore(width)
        scores: list[float] = []

        def done(result: tritonclient.grpc.InferResult, error: Exception | None) -> None:
            if error is None:
                scores.append(float(result.as_numpy("SCORE")[0, 0]))
            room.release()

        for file in files:
            room.acquire()
            client.async_infer("ma_agiqa", image_input([file]), done, outputs=outputs)
        for _ in range(width):
            room.acquire()
        return len(scores)

    return score


def sdk(scorer: Scorer, width: int) -> Contestant:
    """`score_many` with as many images under way."""

    def score(files: list[bytes]) -> int:
        scores = scorer.score_many(files, max_in_flight=width)
        return sum(score.error is None for score in scores)

    return score


def measure(
    contestants: dict[str, Contestant], files: list[bytes], rounds: int
) -> dict[str, list[float]]:
    """Images per second of each contestant in each round, after one round that does not count."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.perf_counter()
            if contestants[name](files) != len(files):
                sys.exit(f"{name} did not score every image.")
            if number:
                rates[name].append(len(files) / (time.perf_counter() - began))
    return rates


def report(rates: dict[str, list[float]], ours: tuple[str, ...]) -> None:
    """Print the rates and the share."""
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        spread = f"{min(found):.1f} to {max(found):.1f}"
        print(f"{name:28} {medians[name]:7.1f} images/s  ({spread})")
    best = max((name for name in medians if name not in ours), key=medians.__getitem__)
    for name in ours:
        pairs = zip(rates[name], rates[best], strict=True)
        share = statistics.median(mine / other for mine, other in pairs)
        print(f"{name}: {share:.0%} of the best of the others, {best}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", help="gRPC address; without it the clone's own server is started")
    parser.add_argument("--images", type=int, default=192, help="images per round (192)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (7)")
    parser.add_argument("--width", type=int, default=64, help="images under way, at least 8 (64)")
    parser.add_argument("--side", type=int, default=512, help="pixels a side (512)")
    options = parser.parse_args()
    started = nullcontext(options.url) if options.url else embedded_server(find_serve_script())
    with started as url:
        pictures = [picture(seed, options.side) for seed in range(options.images)]
        _compare_plain(url, pictures, options.rounds, options.width)


def _compare_plain(url: str, pictures: list[np.ndarray], rounds: int, width: int) -> None:
    client = tritonclient.grpc.InferenceServerClient(url)
    with client, Scorer(url, timeout_s=600) as scorer:
        contestants = {
            f"infer, {width // 2} threads": plain_threads(client, width // 2),
            f"infer, {width} threads": plain_threads(client, width),
            f"async_infer, {width} under way": plain_async(client, width),
            f"infer, {width // 8} batches of 8": plain_batches(client, width, 8),
            "score_many": sdk(scorer, width),
        }
        rates = measure(contestants, [jpeg(pixels) for pixels in pictures], rounds)
    report(rates, ("score_many",))


if __name__ == "__main__":
    main()
