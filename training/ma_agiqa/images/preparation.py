"""Views of many image files, as a server needs them: none of them holds up or harms the others.

    ordinary pictures   --> threads, as many as cores
    TIFF, AVIF, run-length encoded BMP, JPEG of many scans
                        --> processes that are ended when a file costs too much (`images.isolated`)
    large pictures      --> such processes of their own, one large picture at a time for each
                            further core

A picture is ordinary if its header tells what decoding costs, and that is little: at most 4
megapixels. So what runs on a thread, which cannot be interrupted, takes 0.2 s at most. Processes
run at low priority, and their number of pixels in work is limited, so that the largest pictures
take neither the cores nor the memory of small ones.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from ma_agiqa.errors import CostlyImageError, ImageError, ImageTooLargeError
from ma_agiqa.images.isolated import DecodingProcess, LargePictureError, Views, make_views
from ma_agiqa.images.limits import MAX_PIXELS, MAX_REQUEST_PIXELS
from ma_agiqa.images.picture import UNBOUNDED_FORMATS, Picture, accepted_format

ORDINARY_PIXELS = 2**22
"""Most pixels of a picture that is decoded on a thread: 2048x2048."""

MAX_WAITING_BYTES = 2**29
"""Bytes of files that may wait for the processes; further ones are refused."""

MAX_WAIT_S = 60.0
"""How long a large picture may have to wait; further ones are refused."""

_MAX_REASONS = 5  # in one error
_RATE_WEIGHT = 1 / 4  # of the last picture in the average time


class OverloadError(Exception):
    """Too many large pictures wait."""


def _nothing(*_: object) -> None:
    pass


@dataclass
class Order:
    """One image file whose views are wanted.

    Attributes:
        data: the file.
        header_read: called with the number of pixels, once it is known, and with the seconds for
            which a large picture will wait for a process; None for a picture that is not large.
        begin: called just before work on the file begins. What either raises is the result.
        views: the result.
    """

    data: bytes
    header_read: Callable[[int, float | None], None] = _nothing
    begin: Callable[[], None] = _nothing
    views: Future[Views] = field(default_factory=Future)


class Preparation:
    """Threads and processes that make views."""

    def __init__(self, semantic_size: int, cores: int):
        """Start the threads; processes start with the first file that needs one.

        Args:
            semantic_size: side of the semantic view in pixels.
            cores: number of ordinary pictures that are decoded at the same time.
        """
        self._semantic_size = semantic_size
        self._threads = ThreadPoolExecutor(cores, "ordinary")
        self._room = threading.Condition()
        self._waiting, self._max_waiting = 0, 2 * cores
        self._costly = _Lane("costly", max(1, cores // 2), semantic_size, ORDINARY_PIXELS)
        in_work = max(1, cores - 1) * MAX_PIXELS
        self._large = _Lane("large", cores, semantic_size, MAX_PIXELS, in_work)

    def submit(self, order: Order) -> Future[Views]:
        """Make the views of a file. The result's error is an `ImageError` if the file is at fault.

        Other errors are `OverloadError`, and what `order.begin` and `order.header_read` raise.
        """
        with self._room:
            self._waiting += 1
        self._threads.submit(self._prepare, order)
        return order.views

    def wait_for_room(self) -> None:
        """Wait until few ordinary pictures are left, as long as threads are never idle."""
        with self._room:
            self._room.wait_for(lambda: self._waiting <= self._max_waiting)

    def close(self) -> None:
        """Finish everything that has been submitted, and end the threads and processes."""
        self._threads.shutdown()
        self._costly.close()
        self._large.close()

    def _prepare(self, order: Order) -> None:
        try:
            _settle(order, self._ordinary)
        finally:
            with self._room:
                self._waiting -= 1
                self._room.notify_all()

    def _ordinary(self, order: Order) -> Views | None:
        order.begin()
        if accepted_format(order.data) in UNBOUNDED_FORMATS:
            self._costly.put(order, ORDINARY_PIXELS, self._in_costly)
            return None
        picture = Picture(order.data)
        if picture.work > ORDINARY_PIXELS:
            self._put_large(order, picture.work)
        elif picture.bounded:
            order.header_read(picture.pixels, None)
            return make_views(picture, self._semantic_size)
        else:
            self._costly.put(order, picture.work, self._in_costly)
        return None

    def _in_costly(self, process: DecodingProcess, order: Order) -> Views | None:
        try:
            views = process.views(order.data)
        except LargePictureError as larger:
            self._put_large(order, larger.pixels)
            return None
        order.header_read(views.pixels, None)
        return views

    def _put_large(self, order: Order, pixels: int) -> None:
        wait_s = self._large.wait_s(pixels)
        order.header_read(pixels, wait_s)
        if wait_s > MAX_WAIT_S:
            raise OverloadError(
                f"The server is overloaded: large images wait for about {wait_s:.0f} s. "
                "Try again later, or ask another server."
            )
        self._large.put(order, pixels, lambda process, order: process.views(order.data))


Work = Callable[[DecodingProcess, Order], Views | None]


class _Lane:
    """Files that wait for processes of one kind."""

    def __init__(
        self,
        name: str,
        processes: int,
        semantic_size: int,
        max_pixels: int,
        max_in_work: float = float("inf"),
    ):
        self._size, self._max_pixels = semantic_size, max_pixels
        self._threads = ThreadPoolExecutor(processes, name)
        self._places = processes
        self._own = threading.local()
        self._processes: list[DecodingProcess] = []
        self._changed = threading.Condition()
        self._in_work, self._max_in_work = 0, max_in_work
        self._bytes = 0
        self._pixels: list[int] = []  # of each file that waits or is in work
        self._s_per_pixel = 0.0

    def put(self, order: Order, pixels: int, work: Work) -> None:
        """Queue a file.

        Raises:
            OverloadError: too many bytes wait.
        """
        with self._changed:
            if self._bytes and self._bytes + len(order.data) > MAX_WAITING_BYTES:
                raise OverloadError(
                    f"The server is overloaded: {self._bytes / 1e6:.0f} MB of large images are "
                    "waiting. Try again later, or ask another server."
                )
            self._bytes += len(order.data)
            self._pixels.append(pixels)
        self._threads.submit(self._run, order, pixels, work)

    def wait_s(self, pixels: int) -> float:
        """Seconds for which a file will wait, from the time that the last ones took."""
        with self._changed:
            ahead = sum(self._pixels)
            if len(self._pixels) < self._places and ahead + pixels <= self._max_in_work:
                return 0.0
            at_once = min(self._places, self._max_in_work / self._max_pixels)
            return ahead * self._s_per_pixel / at_once

    def close(self) -> None:
        """Finish what waits, and end the processes."""
        self._threads.shutdown()
        for process in self._processes:
            process.close()

    def _run(self, order: Order, pixels: int, work: Work) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: not self._in_work or self._in_work + pixels <= self._max_in_work
            )
            self._in_work += pixels
        try:
            _settle(order, partial(self._work, work, pixels))
        finally:
            with self._changed:
                self._in_work -= pixels
                self._bytes -= len(order.data)
                self._pixels.remove(pixels)
                self._changed.notify_all()

    def _work(self, work: Work, pixels: int, order: Order) -> Views | None:
        order.begin()
        begin_s = time.perf_counter()
        if not hasattr(self._own, "process"):
            self._own.process = DecodingProcess(self._size, self._max_pixels)
            self._processes.append(self._own.process)
        try:
            return work(self._own.process, order)
        finally:
            found = (time.perf_counter() - begin_s) / pixels
            with self._changed:
                self._s_per_pixel += (found - self._s_per_pixel) * _RATE_WEIGHT


def _settle(order: Order, work: Callable[[Order], Views | None]) -> None:
    """Run a step of the work; None means that another step will follow."""
    try:
        views = work(order)
    except BaseException as error:
        order.views.set_exception(error)
    else:
        if views is not None:
            order.views.set_result(views)


class Together:
    """The images of one request: the views of all, or the reasons why there are none.

    When one of them has been given up, is too costly, or fails for a reason that is not the file's,
    the rest is not decoded. Other bad files do not stop the rest, so that the error names them all.
    """

    def __init__(
        self,
        files: Sequence[bytes],
        begin: Callable[[], None],
        wait: Callable[[float], None],
        done: Callable[["Together"], None],
    ):
        """Take the files; `start` begins the work.

        Args:
            files: at least one image file.
            begin: called before each file; raises if the views are no longer wanted.
            wait: called when a large picture has to wait, with the seconds for which it will;
                raises if that is too long.
            done: called with this object once, when all files are settled.
        """
        self._orders = [Order(file, self._header_read, self._begin) for file in files]
        self._wanted, self._wait, self._done = begin, wait, done
        self._lock = threading.Lock()
        self._left, self._pixels = len(files), 0
        self._stopped: BaseException | None = None

    def start(self, preparation: Preparation) -> None:
        """Submit all files."""
        for order in self._orders:
            order.views.add_done_callback(self._settled)
            preparation.submit(order)

    def views(self) -> list[Views]:
        """The views of every image, in the order of the files.

        Raises:
            ImageError: some of the files cannot be read, or they have too many pixels together.
            Exception: what stopped the work.
        """
        if self._stopped and not isinstance(self._stopped, CostlyImageError):
            raise self._stopped
        bad = {
            number: error
            for number, order in enumerate(self._orders)
            if isinstance(error := order.views.exception(), ImageError)
            and not isinstance(error, _SkippedError)
        }
        if bad:
            raise _named(bad, len(self._orders))
        return [order.views.result() for order in self._orders]

    def _begin(self) -> None:
        if self._stopped:
            raise _SkippedError
        self._wanted()

    def _header_read(self, pixels: int, wait_s: float | None) -> None:
        with self._lock:
            self._pixels += pixels
        if self._pixels > MAX_REQUEST_PIXELS:
            self._stopped = ImageTooLargeError(
                f"The request's images have more than {MAX_REQUEST_PIXELS / 1e6:,.0f} megapixels "
                "together. Send them in several requests."
            )
            raise self._stopped
        if wait_s is not None:
            self._wait(wait_s)

    def _settled(self, views: Future[Views]) -> None:
        error = views.exception()
        with self._lock:
            costly = isinstance(error, CostlyImageError)
            if error and (costly or not isinstance(error, ImageError)) and not self._stopped:
                self._stopped = error
            self._left -= 1
            last = not self._left
        if last:
            self._done(self)


class _SkippedError(ImageError):
    """Another image of the request has ended the work."""


def _named(bad: dict[int, ImageError], images: int) -> ImageError:
    """One error for the bad images of a request, of the type of the first one."""
    first = next(iter(bad.values()))
    if images == 1:
        return first
    reasons = "; ".join(
        f"image {number + 1} (IMAGE[{number}]): {str(error).rstrip('.')}"
        for number, error in list(bad.items())[:_MAX_REASONS]
    )
    return type(first)(
        f"{len(bad)} of the {images} images of the request cannot be scored, so none was: {reasons}"
        f"{'; ...' if len(bad) > _MAX_REASONS else ''}. Send the others without them."
    )
