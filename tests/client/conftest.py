"""Servers whose answers a test decides, and scorers that are connected to them."""

import socket
from collections.abc import Iterator
from math import inf

import pytest

from ma_agiqa_client import Retry, Scorer
from support.scripted_server import ScriptedServer


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def another() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def scorer(scripted: ScriptedServer) -> Iterator[Scorer]:
    with Scorer(scripted.url, timeout_s=20) as scorer:
        yield scorer


@pytest.fixture
def either(kind: type, scripted: ScriptedServer) -> Iterator[Scorer]:
    """A scorer of either kind."""
    with kind(scripted.url, timeout_s=20) as scorer:
        yield scorer


@pytest.fixture
def no_server() -> Iterator[str]:
    """An address that refuses connections: it is bound, but nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries do not wait, and there are three."""
    monkeypatch.setattr(Retry, "delay_s", lambda self, tries, jitter: 0.0 if tries <= 3 else inf)
