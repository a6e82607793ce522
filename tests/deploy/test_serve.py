"""deploy/serve.py as a process: its status line, its exit status, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.supervised import SERVE, Supervised
from support.waiting import wait_until


class Serve:
    """Starts serve.py with the test's repository, and knows the traces that it could leave."""

    def __init__(self, repository: Path, processes, log_file: Path):
        self.processes, self._files = processes, (repository, log_file)
        self.traced: list[Path] = []
        self.shm_prefix = ""

    def start(self, *options: str) -> Supervised:
        running = Supervised(*self._files, *options)
        self.shm_prefix = self.processes.argument("shm-region-prefix-name=")
        self.traced = [Path(self.processes.argument("--backend-directory="))]
        assert self.regions()
        return running

    def launch(self, *options: str) -> Supervised:
        """Start it without waiting."""
        return Supervised(*self._files, *options, ready=False)

    def regions(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"{self.shm_prefix}*")) if self.shm_prefix else []

    def traces(self) -> list:
        """Processes, shared memory and temporary files that are left, given time to go."""
        left = self.processes.wait_until_gone()
        return [*left, *self.regions(), *(path for path in self.traced if path.exists())]


@pytest.fixture
def serve(repository, processes, tmp_path) -> Iterator[Serve]:
    yield Serve(repository, processes, tmp_path / "log")
    for pid in processes.find():
        os.kill(pid, signal.SIGKILL)


def test_sigterm_stops_it_and_leaves_nothing(serve, tmp_path):
    running = serve.start()
    assert running.status["model"] == "tiny"
    assert running.status["pid"] == running.process.pid
    assert running.status["log_file"] == str(tmp_path / "log")
    for name, scheme in (("grpc_url", ""), ("http_url", "http://"), ("metrics_url", "http://")):
        assert running.status[name].startswith(f"{scheme}127.0.0.1:")
    # Ctrl-C reaches every process of the terminal's session: tritonserver is in another one.
    session = os.getsid(running.process.pid)
    assert os.getsid(serve.processes.find("tritonserver")[0]) != session
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == (0, "")
    assert serve.traces() == []


def test_a_killed_parent_leaves_nothing(serve):
    running = serve.start("--until-stdin-closes")
    running.process.stdin.close()
    assert running.end() == (0, "")
    assert running.process.stdout.read() == ""
    assert serve.traces() == []


def test_kill_9_leaves_nothing(serve):
    assert serve.start().stop(signal.SIGKILL) == -signal.SIGKILL
    assert serve.traces() == []


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("tritonserver", "tritonserver ended unexpectedly"),
        ("guard.py", "tritonserver ended unexpectedly"),
        ("triton_python_backend_stub", "The process of model "),
    ],
)
def test_a_death_while_running_is_told(serve, program, message):
    running = serve.start("--restarts", "0")
    serve.processes.kill(program)
    status, errors = running.end()
    assert status == 1
    assert errors.startswith(f"Error: {message}")
    assert serve.traces() == []


def test_a_death_is_followed_by_a_start_at_the_same_ports(serve, tmp_path):
    running = serve.start("--restarts", "1")
    regions = serve.regions()
    serve.processes.kill("tritonserver")
    running.wait_for(f"Serving again at {running.url}.\n")
    assert running.text().startswith("tritonserver ended unexpectedly")
    assert not any(region.exists() for region in regions)
    assert (tmp_path / "log.previous.log").is_file()
    serve.processes.kill("tritonserver")
    assert running.end()[0] == 1
    assert serve.traces() == []


def test_ctrl_c_while_the_models_load(serve):
    running = serve.launch()
    wait_until(lambda: serve.processes.find("triton_python_backend_stub"))
    running.process.send_signal(signal.SIGINT)
    assert running.end() == (0, "")
    assert serve.traces() == []


def test_errors_are_one_sentence_and_exit_status_1(serve, repository):
    (repository / "maniqa_moe" / "1" / "model.pt").unlink()
    status, errors = serve.launch().end()
    assert status == 1
    assert errors.startswith("Error: The model repository ")
    assert errors.count("\n") == 1


def test_help_has_examples():
    result = subprocess.run([sys.executable, SERVE, "--help"], capture_output=True, text=True)
    assert "python deploy/serve.py --free-ports --json" in result.stdout
    assert "/" not in result.stdout.partition("--repository")[2].partition("--explain")[0]
