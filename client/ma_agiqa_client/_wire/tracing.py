"""OpenTelemetry's trace context as headers, if that package is installed."""

from collections.abc import Callable
from functools import lru_cache

__all__ = ["trace_headers"]


def trace_headers() -> dict[str, str]:
    """Headers of the caller's current span, such as `traceparent`; none without OpenTelemetry."""
    inject = _propagator()
    carrier: dict[str, str] = {}
    if inject:
        inject(carrier)
    return carrier


@lru_cache(maxsize=1)
def _propagator() -> Callable[[dict[str, str]], None] | None:
    """Imported at the first request, not with the package: it takes as long as all the rest."""
    try:
        from opentelemetry.propagate import inject
    except ImportError:
        return None
    return inject
