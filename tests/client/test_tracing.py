"""The caller's trace is sent with each request: with the real OpenTelemetry, and without it."""

import asyncio
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider

from ma_agiqa_client import AsyncScorer, Scorer, connection
from support.scripted_server import numbers


@pytest.fixture
def tracer():
    return TracerProvider().get_tracer("tests")


def trace_ids(scripted):
    return [headers["traceparent"].split("-")[1] for headers in scripted.headers]


def test_requests_carry_the_callers_trace(scripted, tracer):
    with Scorer(scripted.url) as scorer, tracer.start_as_current_span("rank") as span:
        scorer.score(b"1")
        assert len(list(scorer.score_many(numbers(9)))) == 9
    assert trace_ids(scripted) == [format(span.get_span_context().trace_id, "032x")] * 10


def test_requests_of_an_event_loop_too(scripted, tracer):
    """Each task has a context of its own."""

    async def main():
        async with AsyncScorer(scripted.url) as scorer:
            with tracer.start_as_current_span("rank") as span:
                assert len([score async for score in scorer.score_many(numbers(9))]) == 9
        return format(span.get_span_context().trace_id, "032x")

    assert [asyncio.run(main())] * 9 == trace_ids(scripted)


def test_without_a_span_nothing_is_sent(scripted):
    with Scorer(scripted.url) as scorer:
        scorer.score(b"1")
    assert "traceparent" not in scripted.headers[0]


def test_without_opentelemetry_nothing_is_sent(monkeypatch, tracer):
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", None)
    connection._opentelemetry_inject.cache_clear()
    try:
        with tracer.start_as_current_span("rank"):
            assert connection.Connection().headers() == {}
    finally:
        connection._opentelemetry_inject.cache_clear()
