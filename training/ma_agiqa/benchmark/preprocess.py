"""Speed of preprocessing, compared with decoding every file twice as the authors' code does."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ma_agiqa.benchmark.machine import PeakMemory, seconds
from ma_agiqa.images.views import PADDING_RGB, decode, quality_view, semantic_view
from ma_agiqa.tensors import QUALITY_SIZE

Views = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class PreprocessSpeed:
    """What was measured over all files.

    Attributes:
        images: number of images in a round.
        megapixels: average size of an image.
        seconds_per_image: decoding and both views, one file after the other.
        pooled_seconds_per_image: the same on `threads` threads in parallel, as served.
        twice_seconds_per_image: one file after the other, each decoded by OpenCV and by Pillow.
        decode_s, quality_s, semantic_s: the parts of `seconds_per_image`.
        equal_images: number of images whose views equal, bit for bit, those of decoding twice.
        threads: number of threads in the pool.
        peak_memory_bytes: peak resident memory of this process.
    """

    images: int
    megapixels: float
    seconds_per_image: float
    pooled_seconds_per_image: float
    twice_seconds_per_image: float
    decode_s: float
    quality_s: float
    semantic_s: float
    equal_images: int
    threads: int
    peak_memory_bytes: int


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
) -> PreprocessSpeed:
    """Prepare all files, alternating between decoding once, decoding twice, and a pool.

    Args:
        files: encoded images.
        semantic_size: side of the semantic view in pixels.
        threads: number of threads in the pool.
        rounds: number of rounds over all files, after one that is not timed.

    Raises:
        ImageError: a file that cannot be scored.
    """
    cv2.setNumThreads(1)
    memory = PeakMemory(_CPU)
    once = [prepare_once(data, semantic_size) for data in files]
    twice = [prepare_twice(data, semantic_size) for data in files]
    equal = sum(all(map(np.array_equal, a, b)) for a, b in zip(once, twice, strict=True))
    decoded = [decode(data) for data in files]
    with ThreadPoolExecutor(threads) as pool:
        work: dict[str, Callable[[], object]] = {
            "once": lambda: [prepare_once(data, semantic_size) for data in files],
            "twice": lambda: [prepare_twice(data, semantic_size) for data in files],
            "pool": lambda: list(pool.map(lambda data: prepare_once(data, semantic_size), files)),
            "decode": lambda: [decode(data) for data in files],
            "quality": lambda: [quality_view(rgb) for rgb in decoded],
            "semantic": lambda: [semantic_view(rgb, semantic_size) for rgb in decoded],
        }
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(rounds):
            for name, task in work.items():
                times[name].append(seconds(task, _CPU))
    each = {name: median(values) / len(files) for name, values in times.items()}
    return PreprocessSpeed(
        images=len(files),
        megapixels=sum(rgb.shape[0] * rgb.shape[1] for rgb in decoded) / len(files) / 1e6,
        seconds_per_image=each["once"],
        pooled_seconds_per_image=each["pool"],
        twice_seconds_per_image=each["twice"],
        decode_s=each["decode"],
        quality_s=each["quality"],
        semantic_s=each["semantic"],
        equal_images=equal,
        threads=threads,
        peak_memory_bytes=memory.read(),
    )


def summary(speed: PreprocessSpeed) -> str:
    """Describe a measurement in six lines."""
    once, pool, twice = (
        f"{1000 * value:.2f} ms/image, {1 / value:,.0f} images/s"
        for value in (
            speed.seconds_per_image,
            speed.pooled_seconds_per_image,
            speed.twice_seconds_per_image,
        )
    )
    return (
        f"images    {speed.images} of {speed.megapixels:.2f} megapixels, "
        f"{speed.equal_images} with the same pixels both ways\n"
        f"once      {once}: {1000 * speed.decode_s:.2f} decoding, "
        f"{1000 * speed.quality_s:.2f} quality view, {1000 * speed.semantic_s:.2f} semantic view\n"
        f"pool      {pool}, on {speed.threads} threads\n"
        f"twice     {twice}, decoded by OpenCV and by Pillow\n"
        f"ratio     {speed.twice_seconds_per_image / speed.seconds_per_image:.2f} one by one, "
        f"{speed.twice_seconds_per_image / speed.pooled_seconds_per_image:.2f} with the pool\n"
        f"memory    {speed.peak_memory_bytes / 2**30:.2f} GiB at most"
    )
