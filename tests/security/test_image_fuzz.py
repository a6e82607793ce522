"""Any bytes end as views or as an `ImageError`, in bounded time and memory: no crash, no hang.

Files are prepared as the server does, in a process of its own, so that a crash of a decoder is a
failure of a test. `make fuzz` tries 20,000 of them; FUZZ_CASES says how many (300).
"""

import multiprocessing
import os
import resource
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from ma_agiqa.images.limits import MAX_IMAGE_BYTES
from support.hostile_files import (
    bulky_files,
    costly_files,
    mutated_file,
    png,
    real_files,
    structured_file,
)

CASES = int(os.environ.get("FUZZ_CASES", "300"))
CPU_LIMIT_S = 3.0  # CPU time: the clock would measure the other users of the machine
MEMORY_LIMIT_MB = 1400
HANG_S = 180.0
ONE_IN = 50
"""One file in this many has a structure that costs time."""

WARM_UP_CASES = CASES // 5
GROWTH_LIMIT_MB = 48  # the allocator's reserves vary by about half of this

OUTCOMES = ("views", "ImageTooLargeError", "InvalidImageError", "CostlyImageError")


def prepare_all(pipe: Connection) -> None:
    """Prepare what arrives; answer with outcome, CPU seconds, memory now and at most, in MB."""
    import warnings

    import cv2

    from ma_agiqa.errors import ImageError
    from ma_agiqa.images.preparation import Order, Preparation

    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # Pillow's remarks on thousands of damaged files
    preparation = Preparation(448, cores=1)
    while True:
        data = pipe.recv_bytes()
        reset_peaks()
        begin = cpu_s()
        try:
            views = preparation.submit(Order(data)).result()
            outcome = "views" if views.semantic.shape == (448, 448, 3) else "no views"
            del views
        except ImageError as error:
            outcome = type(error).__name__
        except BaseException as error:
            outcome = f"untyped: {error!r}"
        seconds, (memory, peak) = cpu_s() - begin, memory_mb()
        pipe.send((outcome, seconds, memory, peak))


def children() -> list[int]:
    """Ids of the decoding processes, which this process has started."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(pid) for each in lists for pid in each.read_text().split()]


def cpu_s() -> float:
    """CPU seconds of this process and of all decoding processes that it has had."""
    ours = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    running = sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in children())
    return running + sum(usage.ru_utime + usage.ru_stime for usage in ours)


def reset_peaks() -> None:
    """Let the peak memory of this process and of the decoding processes begin again."""
    for pid in (os.getpid(), *children()):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_mb() -> tuple[float, float]:
    """Resident memory of this process, and peak of it and of the decoding processes, in MB."""
    fields = [
        dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        for pid in (os.getpid(), *children())
    ]
    here = int(fields[0]["VmRSS"].split()[0]) / 1024
    return here, sum(int(each["VmHWM"].split()[0]) / 1024 for each in fields)


class Decoder:
    """A process that prepares files."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=prepare_all, args=(theirs,))
        self._process.start()
        theirs.close()
        self.memory_mb: list[float] = []
        self.slowest_s = self.peak_mb = 0.0
        self.outcomes: Counter[str] = Counter()

    def decode(self, data: bytes) -> str:
        """Outcome; fails the test on a crash, a hang, or too much time or memory."""
        self._pipe.send_bytes(data)
        if not self._pipe.poll(HANG_S):
            pytest.fail(f"no answer within {HANG_S:g} s, file begins {data[:64]!r}")
        try:
            outcome, seconds, memory, peak = self._pipe.recv()
        except EOFError:
            self._process.join()
            pytest.fail(f"crash (exit {self._process.exitcode}), file begins {data[:64]!r}")
        self.slowest_s = max(self.slowest_s, seconds)
        self.peak_mb = max(self.peak_mb, peak)
        self.memory_mb.append(memory)
        self.outcomes[outcome] += 1
        assert outcome in OUTCOMES
        assert seconds < CPU_LIMIT_S, f"{seconds:.2f} s of CPU for {len(data)} bytes"
        assert peak < MEMORY_LIMIT_MB, f"{peak:.0f} MB for {len(data)} bytes"
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
    assert [decoder.decode(data) for data in real_files()] == ["views"] * len(real_files())


def test_mutated_files(decoder, record_property):
    memory_before = len(decoder.memory_mb)
    for seed in range(CASES):
        decoder.decode(mutated_file(seed) if seed % ONE_IN else structured_file(seed // ONE_IN))
    memory = decoder.memory_mb[memory_before:]
    warm, end = max(memory[: WARM_UP_CASES + 1]), min(memory[-10:])
    summary = (
        f"{len(memory)} files, {dict(decoder.outcomes)}, slowest {decoder.slowest_s:.2f} s of CPU, "
        f"at most {decoder.peak_mb:.0f} MB; {warm:.0f} MB stay after {WARM_UP_CASES} files and "
        f"{end:.0f} MB at last"
    )
    record_property("summary", summary)
    print(summary)
    assert len(memory) >= CASES * 0.9
    assert decoder.outcomes["views"] > len(real_files())
    assert decoder.outcomes["InvalidImageError"] > CASES * 0.2
    assert end - warm < GROWTH_LIMIT_MB


@pytest.mark.parametrize("name", sorted(costly_files(0)))
def test_files_made_to_cost_time_are_refused(decoder, name):
    assert decoder.decode(costly_files(MAX_IMAGE_BYTES // 3)[name]) == "InvalidImageError"


@pytest.mark.parametrize("name", sorted(bulky_files(256)))
def test_what_surrounds_a_picture_costs_nothing(decoder, name):
    assert decoder.decode(bulky_files(MAX_IMAGE_BYTES // 3)[name]) == "views"
    assert decoder.slowest_s < CPU_LIMIT_S


def test_a_hundred_megapixels_are_refused_by_the_header(decoder):
    assert decoder.decode(png(10_000, 10_000)) == "ImageTooLargeError"
