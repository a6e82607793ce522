"""Limits of the guard: on the log, and on what many connections can do."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedded import guard
from ma_agiqa_client import Scorer
from support.supervised import Supervised, wait_until

IMAGE = next((Path(__file__).resolve().parents[3] / "examples").glob("*.jpg"))
CONNECTIONS = 1100


def written(tmp_path: Path, code: str) -> str:
    """The log of a program that the guard runs, and the file before it."""
    log_file, scratch = tmp_path / "log", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, guard.__file__, scratch, "no-such-prefix-", "1", log_file]
    command += [sys.executable, "-c", code]
    with open(log_file, "wb") as log:
        running = subprocess.Popen(  # which would stop if its stdin closed
            [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log
        )
        assert running.wait(60) == 0
        running.stdin.close()
    return log_file.read_text()


def test_lines_are_copied_and_those_that_repeat_are_counted(tmp_path):
    code = "print('first'); print('again\\n' * 100_000, end=''); print('last', end='')"
    lines = written(tmp_path, code).splitlines()
    assert lines[0] == "first"
    assert lines.count("again") == guard.LOG_REPEATS + 1
    assert lines[-2].startswith(f"({100_000 - guard.LOG_REPEATS - 1} lines are left out here: ")
    assert lines[-1] == "last"


def test_a_log_grows_by_a_megabyte_a_second_at_most(tmp_path):
    began = time.monotonic()
    log = written(tmp_path, "for n in range(30_000): print(n, 'x' * 1000)")
    took_s = time.monotonic() - began
    assert len(log) > guard.LOG_BURST_BYTES
    assert len(log) < guard.LOG_BURST_BYTES + (took_s + 1) * guard.LOG_BYTES_PER_S
    assert "lines are left out here" in log


def test_a_log_that_is_too_long_begins_again(tmp_path, monkeypatch):
    """In a guard whose file may be small."""
    file = tmp_path / "server.log"
    monkeypatch.setattr(guard, "LOG_FILE_BYTES", 1000)
    source, target = os.pipe()
    saved = os.dup(2)
    try:
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), 2)
        log = guard._Log(source, str(file))
        for number in range(3):
            log._write(b"%d" % number * 1001)
    finally:
        os.dup2(saved, 2)
        for descriptor in (saved, source, target):
            os.close(descriptor)
    assert file.read_bytes() == b"2" * 1001
    assert guard.previous_log(file).read_bytes() == b"1" * 1001


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * CONNECTIONS:
        pytest.skip("needs a limit of open files above 2,200")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * CONNECTIONS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


LIMITED = ("prlimit", "--nofile=1024:1024", "setpriv", "--bounding-set=-sys_resource")


@pytest.mark.slow
@pytest.mark.parametrize("service", ["http", "grpc", "metrics"])
def test_idle_connections_cost_neither_the_log_nor_the_server(
    stand_in_repository, tmp_path, many_files, service
):
    """More than the server may have files, and no right to raise that limit."""
    log_file = tmp_path / "log"
    running = Supervised(
        *(stand_in_repository, log_file, "--check-interval", "0.5", "--restarts", "0"), wrap=LIMITED
    )
    address = running.status[f"{service}_url"].removeprefix("http://").partition("/")[0]
    host, port = address.split(":")
    with Scorer(running.url, timeout_s=20) as scorer:
        before = scorer.score(IMAGE).mos
        idle = []
        try:
            for _ in range(CONNECTIONS):
                idle.append(socket.create_connection((host, int(port)), timeout=5))
        except OSError:
            assert len(idle) > 900
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 4)
        assert scorer.score(IMAGE).mos == before
    running.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):  # it cannot read its repository yet
        running.process.wait(1)
    for connection in idle:
        connection.close()
    assert log_file.stat().st_size < 200_000
    assert running.stop() == 0
    assert running.text() == ""
