"""The table at the end of a load test, and the limits that fail it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Limits", "broken_limits", "error_table", "latency_table"]

_PERCENTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Limits:
    """What a run may not exceed; None: no limit.

    Attributes:
        p95_ms: of all requests, those that failed included.
        p99_ms: the same.
        error_rate: failed requests as a share of all, 0..1.
        min_images_per_s: of images scored.
    """

    p95_ms: float | None
    p99_ms: float | None
    error_rate: float | None
    min_images_per_s: float | None


def latency_table(stats: Any) -> str:
    """Percentiles, rates and errors by kind of user and image.

    Args:
        stats: locust's `RequestStats`.
    """
    rows = [*sorted(stats.entries.values(), key=lambda entry: entry.name), stats.total]
    lines = [
        f"{'kind':34s}{'requests':>9s}{'errors':>8s}{'per s':>8s}"
        f"{'p50 ms':>9s}{'p95 ms':>9s}{'p99 ms':>9s}"
    ]
    for row in rows:
        latencies = "".join(f"{row.get_response_time_percentile(p):9.0f}" for p in _PERCENTILES)
        name = "all" if row is stats.total else row.name
        lines.append(
            f"{name:34s}{row.num_requests:9d}{row.num_failures:8d}{row.total_rps:8.1f}{latencies}"
        )
    return "\n".join(lines)


def error_table(errors: Mapping[Any, Any]) -> str:
    """How often each error happened, the most frequent first; empty without errors."""
    found: dict[str, int] = {}
    for error in errors.values():
        kind = str(error.error).partition(":")[0]
        found[kind] = found.get(kind, 0) + error.occurrences
    ranked = sorted(found.items(), key=lambda pair: -pair[1])
    return "\n".join(f"{count:9d}  {kind}" for kind, count in ranked)


def broken_limits(total: Any, limits: Limits) -> list[str]:
    """A sentence for every limit that the run broke.

    Args:
        total: locust's entry of all requests.
        limits: what was allowed.
    """
    if not total.num_requests:
        return ["Nothing was sent: check the address, the users and the run time."]
    scored = (total.num_requests - total.num_failures) / max(total.num_requests, 1)
    checks: Iterable[tuple[str, float, float | None, bool]] = (
        ("p95 ms", total.get_response_time_percentile(0.95), limits.p95_ms, True),
        ("p99 ms", total.get_response_time_percentile(0.99), limits.p99_ms, True),
        ("share of errors", total.fail_ratio, limits.error_rate, True),
        ("images/s", total.total_rps * scored, limits.min_images_per_s, False),
    )
    return [
        f"{name}: {value:.4g}, allowed is at {'most' if at_most else 'least'} {limit:.4g}."
        for name, value, limit, at_most in checks
        if limit is not None and (value > limit if at_most else value < limit)
    ]
