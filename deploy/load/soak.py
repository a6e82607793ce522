"""Load the embedded server for a while and see whether its memory grows: `make soak MINUTES=10`."""

import signal
import statistics
import sys
import threading
import time
from pathlib import Path

import click
import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded.processes import group_members, model_of_stub
from embedded.server import REPOSITORY_ROOT, EmbeddedTriton

SAMPLE_S = 5.0
EXAMPLES = REPOSITORY_ROOT / "examples"


class Load:
    """Threads that score the example images, one after another, until they are stopped."""

    def __init__(self, url: str, threads: int):
        self._url = url
        self._files = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        self.answered, self.errors = 0, 0

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        number = 0
        with tritonclient.grpc.InferenceServerClient(self._url) as client:
            while not self._stop.is_set():
                image = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
                file = self._files[number % len(self._files)]
                image.set_data_from_numpy(np.array([[file]], dtype=np.object_))
                try:
                    client.infer("ma_agiqa", [image], client_timeout=120)
                    self.answered += 1
                except InferenceServerException:
                    self.errors += 1
                number += 1


def memory_mb(server_pid: int) -> dict[str, float]:
    """Memory of tritonserver and of each model's processes; what is shared is divided."""
    sizes: dict[str, float] = {}
    for pid in group_members(server_pid):
        name = model_of_stub(pid) or "tritonserver"
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        size_kb = next(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")
        sizes[name] = sizes.get(name, 0.0) + size_kb / 1024
    return sizes


def growth(totals: list[float]) -> float:
    """Growth from the second fifth of the samples to the last one; the first is warming up."""
    fifth = max(1, len(totals) // 5)
    before, after = totals[fifth : 2 * fifth], totals[-fifth:]
    return statistics.median(after) / statistics.median(before) - 1


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.5), default=10.0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--limit", type=float, default=2.0, show_default=True, help="Percent of growth.")
@click.option("--repository", type=click.Path(path_type=Path), default=None)
def main(minutes: float, threads: int, limit: float, repository: Path | None) -> None:
    """Score the example images for some minutes and fail if memory grows, or a request fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    samples: list[dict[str, float]] = []
    path = repository or REPOSITORY_ROOT / "model_repository"
    with EmbeddedTriton(path, free_ports=True) as server, Load(server.grpc_url, threads) as load:
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            time.sleep(SAMPLE_S)
            samples.append(memory_mb(server.pid))
    totals = [sum(sample.values()) for sample in samples]
    for name in sorted(samples[-1]):
        series = [sample.get(name, 0.0) for sample in samples]
        click.echo(f"{name:20} {series[0]:8.1f} -> {series[-1]:8.1f} MB  {growth(series):+.2%}")
    total = growth(totals)
    click.echo(
        f"{'all':20} {totals[0]:8.1f} -> {totals[-1]:8.1f} MB  {total:+.2%}  "
        f"after {minutes:g} min, {load.answered} images, {load.errors} errors"
    )
    sys.exit(int(load.errors > 0 or 100 * total >= limit))


if __name__ == "__main__":
    main()
