"""The tables at the end of a load test, and the limits that fail it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_PERCENTILES = (0.5, 0.95, 0.99)


class Limit(NamedTuple):
    """A number of a run, and what it may be at most, or at least; None: no limit."""

    name: str
    value: float
    limit: float | None
    at_most: bool = True


def broken_limits(limits: Iterable[Limit]) -> list[str]:
    """A sentence for every limit that a run broke."""
    return [
        f"{name}: {value:.4g}, allowed is at {'most' if at_most else 'least'} {limit:.4g}."
        for name, value, limit, at_most in limits
        if limit is not None and (value > limit if at_most else value < limit)
    ]


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
