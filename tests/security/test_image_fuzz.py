"""Any bytes end as an image or as an `ImageError`: no crash, no hang, no leak.

Files are decoded in a process of their own, so that a crash of a decoder is a failure of a test.
`make fuzz` tries 20,000 of them; FUZZ_CASES says how many (300).
"""

import multiprocessing
import os
import resource
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from ma_agiqa.images.views import MAX_IMAGE_BYTES
from support.hostile_files import costly_files, mutated_files, png, real_files

CASES = int(os.environ.get("FUZZ_CASES", "300"))
CPU_LIMIT_S = 2.0  # CPU time: the clock would measure the other users of the machine
HANG_S = 60.0
WARM_UP_CASES = CASES // 5
GROWTH_LIMIT_MB = 48  # the allocator's reserves vary by about half of this

OUTCOMES = ("image", "ImageTooLargeError", "InvalidImageError")


def decode_all(pipe: Connection) -> None:
    """Decode what arrives; answer with the outcome, the CPU seconds, and the memory in MB."""
    import warnings

    import cv2

    from ma_agiqa.errors import ImageError
    from ma_agiqa.images.views import decode, quality_view, semantic_view

    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # Pillow's remarks on thousands of damaged files
    while True:
        data = pipe.recv_bytes()
        begin = cpu_s()
        try:
            rgb = decode(data)
            views = quality_view(rgb), semantic_view(rgb)
            outcome = "image" if all(view.shape[2] == 3 for view in views) else "no image"
            del rgb, views
        except ImageError as error:
            outcome = type(error).__name__
        except BaseException as error:
            outcome = f"untyped: {error!r}"
        pipe.send((outcome, cpu_s() - begin, memory_mb()))


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class Decoder:
    """A process that decodes."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=decode_all, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.memory_mb: list[float] = []
        self.slowest_s = 0.0
        self.outcomes: Counter[str] = Counter()

    def decode(self, data: bytes) -> str:
        """Outcome; fails the test on a crash, a hang, or too much time."""
        self._pipe.send_bytes(data)
        if not self._pipe.poll(HANG_S):
            pytest.fail(f"no answer within {HANG_S:g} s, file begins {data[:64]!r}")
        try:
            outcome, seconds, memory = self._pipe.recv()
        except EOFError:
            self._process.join()
            pytest.fail(f"crash (exit {self._process.exitcode}), file begins {data[:64]!r}")
        self.slowest_s = max(self.slowest_s, seconds)
        self.memory_mb.append(memory)
        self.outcomes[outcome] += 1
        assert outcome in OUTCOMES
        assert seconds < CPU_LIMIT_S, f"{seconds:.2f} s of CPU for {len(data)} bytes"
        return outcome

    def close(self) -> None:
        self._process.kill()
        self._process.join()


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder()
    yield decoder
    decoder.close()


def test_every_real_file_is_an_image(decoder):
    assert [decoder.decode(data) for data in real_files()] == ["image"] * len(real_files())


def test_mutated_files(decoder, record_property):
    memory_before = len(decoder.memory_mb)

    @settings(
        max_examples=CASES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated_files())
    def run(data: bytes) -> None:
        decoder.decode(data)

    run()
    memory = decoder.memory_mb[memory_before:]
    warm, end = max(memory[: WARM_UP_CASES + 1]), min(memory[-10:])
    summary = f"{len(memory)} files, {dict(decoder.outcomes)}, slowest {decoder.slowest_s:.2f} s"
    summary += f" of CPU, memory {warm:.0f} MB after {WARM_UP_CASES} files and {end:.0f} MB at last"
    record_property("summary", summary)
    print(summary)
    assert len(memory) >= CASES * 0.9
    assert decoder.outcomes["image"] > len(real_files())
    assert decoder.outcomes["InvalidImageError"] > CASES * 0.2
    assert end - warm < GROWTH_LIMIT_MB


@pytest.mark.parametrize("name", sorted(costly_files(0)))
def test_files_made_to_cost_time_are_refused(decoder, name):
    assert decoder.decode(costly_files(MAX_IMAGE_BYTES // 3)[name]) == "InvalidImageError"


def test_a_hundred_megapixels_are_refused_by_the_header(decoder):
    assert decoder.decode(png(10_000, 10_000)) == "ImageTooLargeError"
