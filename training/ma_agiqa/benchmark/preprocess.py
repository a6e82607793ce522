"""Speed of preprocessing, compared with decoding every file twice as the authors' code does."""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ma_agiqa.benchmark.machine import Row, median_seconds
from ma_agiqa.images.views import PADDING_RGB, decode, quality_view, semantic_view
from ma_agiqa.tensors import QUALITY_SIZE

Views = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def prepare_once(data: bytes, semantic_size: int) -> Views:
    """Make both views from one decoding, as the served model does."""
    rgb = decode(data)
    return quality_view(rgb), semantic_view(rgb, semantic_size)


def prepare_twice(data: bytes, semantic_size: int) -> Views:
    """Make both views as the authors' two programs do: OpenCV for one, Pillow for the other.

    It stops at 8-bit pixels, as `prepare_once` does.
    """
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    bgr = cv2.resize(bgr, (QUALITY_SIZE, QUALITY_SIZE), interpolation=cv2.INTER_CUBIC)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.width != image.height:
        side = max(image.size)
        square = Image.new("RGB", (side, side), PADDING_RGB)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    resized = image.resize((semantic_size, semantic_size), Image.Resampling.BICUBIC)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.array(resized)


def generated_file(width: int, height: int, image_format: str, seed: int = 0) -> bytes:
    """Make an image file of smooth colors with fine noise, which compresses as photos do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = rng.integers(-8, 9, smooth.shape, dtype=np.int16)
    file = io.BytesIO()
    image = Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))
    image.save(file, image_format, **({"quality": 92} if image_format == "JPEG" else {}))
    return file.getvalue()


def measure_preprocess(
    files: Sequence[bytes], semantic_size: int, threads: int, rounds: int
) -> Iterator[Row]:
    """Prepare all files, alternating between decoding once, decoding twice, and a pool.

    Args:
        files: encoded images.
        semantic_size: side of the semantic view in pixels.
        threads: number of threads in the pool.
        rounds: number of rounds over all files, after one that is not timed.

    Yields:
        A row for each way, and for each part of decoding once.

    Raises:
        ImageError: a file that cannot be scored.
    """
    cv2.setNumThreads(1)
    decoded = [decode(data) for data in files]
    work: dict[str, Callable[[], object]] = {
        "twice": lambda: [prepare_twice(f, semantic_size) for f in files],
        "once": lambda: [prepare_once(f, semantic_size) for f in files],
        "decoding": lambda: [decode(f) for f in files],
        "quality view": lambda: [quality_view(rgb) for rgb in decoded],
        "semantic view": lambda: [semantic_view(rgb, semantic_size) for rgb in decoded],
    }
    with ThreadPoolExecutor(threads) as pool:
        once = partial(prepare_once, semantic_size=semantic_size)
        work[f"once, {threads} threads"] = lambda: list(pool.map(once, files))
        for task in work.values():
            task()
        times = median_seconds(work, rounds, "cpu")
    for name, taken_s in times.items():
        row: Row = {"work": name, "ms/image": 1000 * taken_s / len(files)}
        if name.startswith(("once", "twice")):
            row |= {"images/s": len(files) / taken_s, "speedup": times["twice"] / taken_s}
        yield row


def count_equal(files: Sequence[bytes], semantic_size: int) -> int:
    """Count the images whose views equal, bit for bit, those of decoding twice."""
    pairs = ((prepare_once(f, semantic_size), prepare_twice(f, semantic_size)) for f in files)
    return sum(all(map(np.array_equal, once, twice)) for once, twice in pairs)
