"""A process that makes the views of image files, and is ended when a file costs too much.

    parent (`DecodingProcess`)  --file-->  child (`python -m ma_agiqa.images.isolated`)
                                <--views or an error--

A thread that decodes cannot be interrupted. A process can: the kernel ends it at the CPU time that
pictures of the declared size take, wherever the decoder is, and refuses it memory beyond what they
take. The child starts with its first file, 0.3 s, and again after it has been ended. It runs at low
priority, so that large pictures do not slow small ones.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import cv2
import numpy as np
from PIL import AvifImagePlugin

from ma_agiqa.errors import CostlyImageError, ImageTooLargeError, InvalidImageError
from ma_agiqa.images.limits import MAX_PIXELS, cpu_budget_s, memory_budget
from ma_agiqa.images.picture import RGB, UNBOUNDED_FORMATS, Picture, accepted_format
from ma_agiqa.images.views import quality_view, semantic_view
from ma_agiqa.tensors import QUALITY_SIZE

CPU_FACTOR = 3
"""What a format whose cost follows from its header may take more: on a slow or busy machine."""

_WALL_S = 600.0  # a child that has not answered by then hangs, even on a busy machine
_NICE = 5
_ERRORS = {e.__name__: e for e in (InvalidImageError, ImageTooLargeError, CostlyImageError)}


@dataclass(frozen=True)
class Views:
    """What is made of an image file.

    Attributes:
        quality: uint8 (224, 224, 3), RGB.
        semantic: uint8 (side, side, 3), RGB.
        pixels: number of pixels of the image.
        seconds: how long it took.
    """

    quality: RGB
    semantic: RGB
    pixels: int
    seconds: float


class LargePictureError(Exception):
    """The picture has more pixels than a process takes; `pixels` is their number."""

    def __init__(self, pixels: int):
        super().__init__(f"{pixels} pixels")
        self.pixels = pixels


def make_views(picture: Picture, semantic_size: int) -> Views:
    """Decode a picture and make both views.

    Raises:
        InvalidImageError: as `Picture.rgb` does.
    """
    begin = time.perf_counter()
    rgb = picture.rgb()
    seconds = time.perf_counter() - begin
    return Views(quality_view(rgb), semantic_view(rgb, semantic_size), picture.pixels, seconds)


class DecodingProcess:
    """The parent's end. Its methods are for one thread at a time."""

    def __init__(self, semantic_size: int, max_pixels: int):
        """Describe the process, which starts with the first file.

        Args:
            semantic_size: side of the semantic view in pixels.
            max_pixels: larger pictures are not decoded.
        """
        self._arguments = (str(semantic_size), str(max_pixels))
        self._semantic_size = semantic_size
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def views(self, data: bytes) -> Views:
        """Make the views of an image file.

        Raises:
            ImageError: the file cannot be read, or costs more than its pixels let expect.
            LargePictureError: it has more than `max_pixels`.
            RuntimeError: the process hangs, or another process has ended it.
        """
        try:
            pipe = self._pipe or self._start()
            pipe.send_bytes(data)
            if not pipe.poll(_WALL_S):
                raise RuntimeError(f"A decoding process did not answer within {_WALL_S:g} s.")
            header = json.loads(pipe.recv_bytes())
            if "error" in header:
                raise _ERRORS[header["error"]](header["message"])
            if "larger" in header:
                raise LargePictureError(header["larger"])
            pixels = np.frombuffer(pipe.recv_bytes(), np.uint8)
        except (EOFError, OSError):
            raise self._ended() from None
        except RuntimeError:
            self.close()
            raise
        quality = pixels[: QUALITY_SIZE**2 * 3].reshape(QUALITY_SIZE, QUALITY_SIZE, 3)
        semantic = pixels[quality.size :].reshape(self._semantic_size, self._semantic_size, 3)
        return Views(quality, semantic, header["pixels"], header["seconds"])

    def close(self) -> None:
        """End the process, also in the middle of a file."""
        if self._child and self._pipe:
            self._pipe.close()
            self._child.kill()
            self._child.wait()
        self._child = self._pipe = None

    def _start(self) -> Connection:
        self._pipe, theirs = Pipe()
        module = (sys.executable, "-P", "-m", "ma_agiqa.images.isolated")
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._child = subprocess.Popen(
                [*module, str(theirs.fileno()), *self._arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders report every damaged file
                env=os.environ | threads,
            )
        return self._pipe

    def _ended(self) -> Exception:
        """The error of a file at which the process ended."""
        child = self._child
        with contextlib.suppress(subprocess.TimeoutExpired):
            if child:
                child.wait(10)
        code = child.returncode if child else None
        self.close()
        if code == -signal.SIGPROF:
            return CostlyImageError(
                "Decoding the image takes far more time than images of its size do. "
                "Save it as PNG, or as JPEG that is not progressive."
            )
        if code in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGFPE):
            return InvalidImageError(
                "The image is damaged: its decoder crashed. Write or transfer the file again."
            )
        return RuntimeError(f"A decoding process ended with status {code}.")


def _serve(pipe: Connection, semantic_size: int, max_pixels: int) -> None:
    """Answer files until the parent closes the pipe."""
    while True:
        try:
            data = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        header, pixels = _answer(data, semantic_size, max_pixels)
        signal.setitimer(signal.ITIMER_PROF, 0)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # the next file may be large
        pipe.send_bytes(json.dumps(header).encode())
        if pixels:
            pipe.send_bytes(pixels)


def _answer(data: bytes, semantic_size: int, max_pixels: int) -> tuple[dict[str, Any], bytes]:
    begin_s, present = time.process_time(), _address_space()
    try:
        # WebP's canvas is there, though not used, once the header has been read.
        bounded = accepted_format(data) not in UNBOUNDED_FORMATS
        _limit(present + memory_budget(MAX_PIXELS if bounded else 0), cpu_budget_s(0))
        picture = Picture(data)
        if picture.work > max_pixels:
            return {"larger": picture.work}, b""
        cpu_s = cpu_budget_s(picture.work) * (CPU_FACTOR if picture.bounded else 1)
        left_s = cpu_s - (time.process_time() - begin_s)
        _limit(present + memory_budget(picture.work), left_s)
        views = make_views(picture, semantic_size)
    except MemoryError:
        message = (
            "Decoding the image takes far more memory than images of its size do. "
            "Save it as PNG or JPEG."
        )
        return {"error": CostlyImageError.__name__, "message": message}, b""
    except tuple(_ERRORS.values()) as error:
        return {"error": type(error).__name__, "message": str(error)}, b""
    header = {"pixels": views.pixels, "seconds": views.seconds}
    return header, views.quality.tobytes() + views.semantic.tobytes()


def _address_space() -> int:
    """Bytes of memory that this process has asked for."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _limit(memory_bytes: int, cpu_s: float) -> None:
    """Limit the memory of this process, and the CPU time that it takes from now on."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = memory_bytes if hard < 0 else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    signal.setitimer(signal.ITIMER_PROF, max(cpu_s, 0.001))


def main() -> None:
    """Run the child."""
    descriptor, semantic_size, max_pixels = map(int, sys.argv[1:])
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it, after what is in flight
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICE)
    cv2.setNumThreads(1)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    warnings.simplefilter("ignore")
    with Connection(descriptor) as pipe:
        _serve(pipe, semantic_size, max_pixels)


if __name__ == "__main__":
    main()
