"""How replicas follow a day's load, and how long images wait: a simulation from measured times.

    python docs/experiments/simulate_replicas.py times --url http://localhost:8000
    python docs/experiments/simulate_replicas.py day --fixed-ms 8 --image-ms 10 --peak 300

`times` reads the step times of a server that has had load from Triton's statistics and fits
"fixed + images x image_ms" to each. Steps work at the same time on different images, so the slowest
one limits a replica, and `day` simulates 24 hours of it (replica_simulation.py).

What it leaves out: the time in the other steps, the network, retries (a retry adds load), images of
very different sizes, and neighbors on the machine. Rates and times scale together: a server that
is 10 times as fast needs the same replicas at 10 times the load.
"""

import json
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np

from replica_simulation import Autoscaler, Day, ServiceTime, Trace, arrivals, simulate

__all__ = ["fit_times", "hours", "main", "measured_batches"]

STEPS = ("preprocess", "mplug_owl2", "maniqa_moe", "meter")


def fit_times(batches: Sequence[tuple[int, float, int]]) -> ServiceTime:
    """Fit a line to measured batches, weighted by how often each was seen.

    Args:
        batches: images in the batch, mean seconds, number of executions.
    """
    sizes, seconds, counts = (
        np.array(column, dtype=float) for column in zip(*batches, strict=True)
    )
    if len(sizes) < 2:
        return ServiceTime(0.0, float(seconds[0] / sizes[0]))
    image_s, fixed_s = np.polyfit(sizes, seconds, 1, w=np.sqrt(counts))
    return ServiceTime(max(float(fixed_s), 0.0), float(image_s))


def measured_batches(url: str, model: str) -> list[tuple[int, float, int]]:
    """Executions of a model of the running server by batch size."""
    with urllib.request.urlopen(f"{url}/v2/models/{model}/stats", timeout=30) as answer:
        batches = json.load(answer)["model_stats"][0]["batch_stats"]
    rows = [
        (b["batch_size"], b["compute_infer"]["ns"], b["compute_infer"]["count"]) for b in batches
    ]
    return [(size, ns / count / 1e9, count) for size, ns, count in rows if count]


def hours(trace: Trace) -> Iterator[tuple[int, float, float, float, float]]:
    """Hour, images a second, mean replicas, and p50 and p99 seconds of that hour's images."""
    for hour in range(24):
        inside = (trace.arrived_s >= hour * 3600) & (trace.arrived_s < (hour + 1) * 3600)
        up = trace.replicas[(trace.replicas[:, 0] // 3600) == hour, 1]
        if inside.any() and len(up):
            p50, p99 = np.percentile(trace.seconds[inside], (50, 99))
            yield hour, inside.sum() / 3600, float(up.mean()), float(p50), float(p99)


def draw(trace: Trace, path: Path) -> None:
    """Draw load, replicas and waits over the day."""
    from matplotlib.figure import Figure

    rows = np.array(list(hours(trace)))
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.step(trace.replicas[:, 0] / 3600, trace.replicas[:, 1], color="tab:blue")
    above.set_ylabel("replicas", color="tab:blue")
    load = above.twinx()
    load.plot(rows[:, 0] + 0.5, rows[:, 1], color="tab:gray")
    load.set_ylabel("images/s", color="tab:gray")
    load.set_ylim(0)
    below.semilogy(rows[:, 0] + 0.5, rows[:, 4], color="tab:red", label="p99")
    below.semilogy(rows[:, 0] + 0.5, rows[:, 3], color="tab:green", label="p50")
    below.set(xlabel="hour of the day", ylabel="seconds to the score", xlim=(0, 24))
    below.legend()
    figure.savefig(path, dpi=110)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Estimate replicas and waits from measured times."""


@main.command()
@click.option("--url", default="http://localhost:8000", help="HTTP of the server.")
def times(url: str) -> None:
    """Fit the step times of a server that has had load."""
    found = {step: fit_times(measured_batches(url, step)) for step in STEPS}
    for step, time in found.items():
        click.echo(
            f"{step:11} {time.fixed_s * 1e3:7.2f} ms + {time.image_s * 1e3:7.2f} ms an image, "
            f"{time.capacity:7.1f} images/s in full batches"
        )
    slowest = min(found, key=lambda step: found[step].capacity)
    click.echo(
        f"The slowest step, {slowest}, limits a replica: --fixed-ms "
        f"{found[slowest].fixed_s * 1e3:.2f} --image-ms {found[slowest].image_s * 1e3:.2f}"
    )


@main.command()
@click.option(
    "--fixed-ms", type=click.FloatRange(0), required=True, help="Of a batch, per `times`."
)
@click.option("--image-ms", type=click.FloatRange(0, min_open=True), required=True)
@click.option("--night", type=float, default=5.0, help="Lowest rate, images a second.")
@click.option("--peak", type=float, default=50.0, help="Highest rate, images a second.")
@click.option("--burst", type=float, default=1.0, help="Times the rate, for 10 minutes at 16 h.")
@click.option("--queue", type=float, help="Scale on images that wait, so many for each replica.")
@click.option("--busy", type=float, help="Scale on the share of time that each replica computes.")
@click.option("--least", type=click.IntRange(1), default=2, help="Replicas at least.")
@click.option("--most", type=click.IntRange(1), default=10, help="Replicas at most.")
@click.option("--start-s", type=float, default=180.0, help="Seconds until a new replica scores.")
@click.option("--slow-s", type=float, default=2.0, help="What counts as slow.")
@click.option("--seed", type=int, default=0)
@click.option("--table", is_flag=True, help="A line for each hour.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw it there.")
def day(
    fixed_ms: float,
    image_ms: float,
    night: float,
    peak: float,
    burst: float,
    queue: float | None,
    busy: float | None,
    least: int,
    most: int,
    start_s: float,
    slow_s: float,
    seed: int,
    table: bool,
    figure: Path | None,
) -> None:
    """Simulate 24 hours."""
    service = ServiceTime(fixed_ms / 1e3, image_ms / 1e3)
    scaler = Autoscaler(queue, busy, least, most, start_s=start_s)
    times_s = arrivals(Day(night, peak, burst), np.random.default_rng(seed))
    trace = simulate(times_s, service, scaler)
    if table:
        click.echo("hour  images/s  replicas   p50 s    p99 s")
        for hour, rate, up, p50, p99 in hours(trace):
            click.echo(f"{hour:4}  {rate:8.1f}  {up:8.1f}  {p50:6.3f}  {p99:7.3f}")
    p50, p99 = np.percentile(trace.seconds, (50, 99))
    click.echo(
        f"{len(times_s)} images; a replica scores at most {service.capacity:.1f} a second; "
        f"p50 {p50:.3f} s, p99 {p99:.3f} s, longest {trace.seconds.max():.1f} s; "
        f"over {slow_s:g} s: {(trace.seconds > slow_s).mean():.3%}; "
        f"replica hours {trace.replica_hours:.1f}, "
        f"at most {int(trace.replicas[:, 1].max())} replicas"
    )
    if figure:
        draw(trace, figure)


if __name__ == "__main__":
    main()
