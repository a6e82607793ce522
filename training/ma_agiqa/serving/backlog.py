"""What waits in a server, and how long its batches take: both from the server's own metrics.

Requests that were cancelled, or failed in a later step, are never counted as waiting. The time of
batches of each size is what a server can do; how many images a second it scored says only how many
it got.
"""

import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # proxies cannot reach it
_TIMEOUT_S = 1.0
_PENDING = "nv_inference_pending_request_count{"
_IMAGES, _BATCHES = "nv_inference_count{", "nv_inference_exec_count{"
_WINDOW_BATCHES = 32  # the time of a batch is learned from about this many
_ENOUGH_BATCHES = 4  # fewer say too little
_PRIOR = 0.01  # in doubt, an image adds little to the time of a batch


@dataclass(frozen=True)
class Backlog:
    """One reading of the metrics.

    Attributes:
        pending: number of requests in the queues of the later steps.
        pending_here: number of requests in the queue of the first step.
        images: number of images that the last step has computed since the server started; unlike
            those before, it gets neither refused requests nor questions about images.
        batches: number of batches in which it did.
        time_s: when it was read, in seconds.
    """

    pending: int
    pending_here: int
    images: int
    batches: int
    time_s: float

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self.pending and not self.pending_here


UNREAD = Backlog(0, 0, 0, 0, float("-inf"))
"""Stands for no reading."""


def fetch_metrics(url: str) -> str:
    """Get the metrics of the server at an address, as text."""
    with _DIRECT.open(url, timeout=_TIMEOUT_S) as response:
        return response.read().decode()


def read_backlog(metrics: str, models: Sequence[str], time_s: float) -> Backlog:
    """Read the Prometheus text of a Triton server.

    Args:
        metrics: the text.
        models: names of the steps, in their order.
        time_s: when it was read, in seconds.
    """
    pending = dict.fromkeys(models, 0)
    computed = dict.fromkeys((_IMAGES, _BATCHES), 0)
    for line in metrics.splitlines():
        for model in models:
            if line.startswith(_PENDING) and f'model="{model}"' in line:
                pending[model] += int(float(line.rpartition(" ")[2]))
        for name in computed:
            if line.startswith(name) and f'model="{models[-1]}"' in line:
                computed[name] += int(float(line.rpartition(" ")[2]))
    here = pending.pop(models[0])
    return Backlog(sum(pending.values()), here, computed[_IMAGES], computed[_BATCHES], time_s)


class BatchTime:
    """Learns the time of a batch of b images, t(b) = fixed + each * b, while a server is busy.

    Least squares over intervals of `batches` with `images` together, whose time should be
    `fixed * batches + each * images`. Each batch weighs the same, but older ones less and less.
    From batches of one size, nearly all of the time is taken for fixed.
    """

    def __init__(self) -> None:
        self.batches = 0.0  # that it was learned from, the older ones counted less
        self._nb = self._bb = self._ns = self._bs = 0.0

    @property
    def known(self) -> bool:
        """Whether enough batches were seen."""
        return self.batches >= _ENOUGH_BATCHES

    def learn(self, batches: int, images: float, seconds: float) -> None:
        """Take in an interval with one batch or more."""
        keep = _WINDOW_BATCHES / (_WINDOW_BATCHES + batches)
        self.batches = self.batches * keep + batches
        self._nb = self._nb * keep + images
        self._bb = self._bb * keep + images**2 / batches
        self._ns = self._ns * keep + seconds
        self._bs = self._bs * keep + images / batches * seconds

    def seconds(self, images: float, largest: int) -> float:
        """Estimate the time that a number of images take in batches of at most `largest`."""
        if not self.batches:
            return 0.0
        ridged = self._bb * (1 + _PRIOR)
        determinant = self.batches * ridged - self._nb**2
        fixed = (self._ns * ridged - self._nb * self._bs) / determinant
        each = (self._bs - self._nb * max(fixed, 0.0)) / ridged
        if fixed < 0:
            fixed = 0.0
        if each < 0:
            fixed, each = self._ns / self.batches, 0.0
        return fixed * max(1.0, images / largest) + each * images
