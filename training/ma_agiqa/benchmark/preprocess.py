"""Speed of preparing images, beside decoding every file twice as the authors' code does."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ma_agiqa.benchmark.machine import PeakMemory, seconds
from ma_agiqa.benchmark.official import OfficialPreprocess
from ma_agiqa.images.views import PADDING_RGB, decode, quality_view, semantic_view
from ma_agiqa.lmm.embedder import CLIP_MEAN, CLIP_STD
from ma_agiqa.tensors import QUALITY_SIZE

__all__ = [
    "OfficialSpeed",
    "PreprocessSpeed",
    "generated_file",
    "measure_official",
    "measure_preprocess",
    "prepare_twice",
]

Views = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class PreprocessSpeed:
    """What was measured over all files.

    Attributes:
        images: prepared in a round.
        megapixels: of one, on average.
        seconds_per_image: one after the other: decoding and both views.
        pooled_seconds_per_image: the files side by side on `threads` threads, as served.
        twice_seconds_per_image: one after the other, each file decoded by OpenCV and by Pillow.
        decode_s, quality_s, semantic_s: the parts of `seconds_per_image`.
        equal_images: whose views equal, bit for bit, those made by decoding twice.
        threads: of the pool.
        peak_memory_bytes: of this process.
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

    It stops at 8-bit pixels, as ours does; making floats of them is left out on both sides.
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
    """Prepare all files in turns: once decoded, twice decoded, and in a pool.

    Args:
        files: encoded images.
        semantic_size: side of the semantic view in pixels.
        threads: of the pool.
        rounds: over all files, after one that is not timed.

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
        work = {
            "once": lambda: [prepare_once(data, semantic_size) for data in files],
            "twice": lambda: [prepare_twice(data, semantic_size) for data in files],
            "pool": lambda: list(pool.map(lambda data: prepare_once(data, semantic_size), files)),
            "decode": lambda: [decode(data) for data in files],
            "quality": lambda: [quality_view(rgb) for rgb in decoded],
            "semantic": lambda: [semantic_view(rgb, semantic_size) for rgb in decoded],
        }
        times = {name: [] for name in work}
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


@dataclass(frozen=True)
class OfficialSpeed:
    """Both ways from files to the normalized floats that the networks take, one after the other.

    Attributes:
        ours_s: seconds for an image, decoded once.
        quality_s: seconds of the authors' code for MANIQA's input.
        semantic_s: seconds of the authors' code for mPLUG-Owl2's input, which it makes anew for
            each of the two prompts.
        largest_difference: between the two ways' inputs, of normalized values (-2 to 2).
    """

    ours_s: float
    quality_s: float
    semantic_s: float
    largest_difference: float


def network_inputs(views: Views) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalize an image's views as both networks do: float32 (3, 224, 224) and (3, S, S)."""
    quality, semantic = map(torch.from_numpy, views)
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return (
        (quality.permute(2, 0, 1).float() / 255 - 0.5) / 0.5,
        ((semantic.float() / 255 - mean) / std).permute(2, 0, 1),
    )


def measure_official(
    files: Sequence[bytes], semantic_size: int, official: OfficialPreprocess, rounds: int
) -> OfficialSpeed:
    """Prepare all files by turns, ours and theirs.

    Args:
        files: encoded images.
        semantic_size: side of the semantic view in pixels, as `official` has it.
        official: at work.
        rounds: over all files, after one that is not timed.

    Raises:
        ImageError: a file that cannot be scored.
        ConfigError: the authors' code has ended.
    """

    def prepare() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [network_inputs(prepare_once(data, semantic_size)) for data in files]

    made = [torch.stack(inputs) for inputs in zip(*prepare(), strict=True)]
    *_, expected = official.prepare(files)
    ours, quality, semantic = [], [], []
    for _ in range(rounds):
        ours.append(seconds(prepare, _CPU))
        quality_s, semantic_s, _ = official.prepare(files)
        quality.append(quality_s)
        semantic.append(semantic_s)
    return OfficialSpeed(
        *(median(values) / len(files) for values in (ours, quality, semantic)),
        max(float((a - b).abs().max()) for a, b in zip(made, expected, strict=True)),
    )
