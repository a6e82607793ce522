"""The canary against a real server whose model can be made to hang."""

import threading
from pathlib import Path

import pytest

from embedded.canary import Canary, CanaryError
from embedded.server import EmbeddedTriton

HANG = """
import time
from pathlib import Path

FILE = Path({file!r})


def wait_while_it_is_there():
    while FILE.exists():
        time.sleep(0.05)
"""


@pytest.fixture
def hang(repository, tmp_path) -> Path:
    """While this file exists, `preprocess` answers nobody."""
    file, model = tmp_path / "hang", repository / "preprocess" / "1" / "model.py"
    text = model.read_text().replace(
        "        return [self", "        wait_while_it_is_there()\n        return [self", 1
    )
    model.write_text(HANG.format(file=str(file)) + text)
    return file


@pytest.fixture
def server(repository, hang, tmp_path):
    with EmbeddedTriton(repository, free_ports=True, log_file=tmp_path / "log") as running:
        yield running


def test_slow_is_not_dead_and_hanging_is(server, hang, monkeypatch):
    monkeypatch.setattr("embedded.canary.TIMEOUT_S", 0.5)
    patient, strict = Canary(server.http, 60.0), Canary(server.http, 0.2)
    assert patient.sing()
    hang.touch()
    assert not patient.sing()
    with pytest.raises(CanaryError, match="ma_agiqa has answered nobody for"):
        strict.sing()
    hang.unlink()
    again = threading.Event()
    while not patient.sing():
        again.wait(0.1)


def test_a_failure_is_told_at_once(server, processes):
    canary = Canary(server.http)
    processes.kill("triton_python_backend_stub")
    with pytest.raises(CanaryError, match=r"ma_agiqa fails: .*Stub process .* is not healthy"):
        sing_until_it_fails(canary)


def sing_until_it_fails(canary: Canary) -> None:
    while canary.sing():
        pass
