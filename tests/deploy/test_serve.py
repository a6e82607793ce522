"""deploy/serve.py as a process: its status line, its exit status, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVE = Path(__file__).resolve().parents[2] / "deploy" / "serve.py"
DEADLINE_S = 60.0


class Serve:
    """serve.py with the test's repository, and the traces it could leave."""

    def __init__(self, repository: Path, processes, log_file: Path):
        self.processes = processes
        self._command = [
            *(sys.executable, SERVE, "--free-ports"),
            *("--repository", repository, "--log-file", log_file),
        ]
        self.process: subprocess.Popen[str] | None = None
        self.shm_prefix = ""
        self.scratch = Path()

    def start(self, *options: str) -> str:
        """Start it and return the status line."""
        self.launch(*options)
        line = self.process.stdout.readline()
        self.shm_prefix = self.processes.argument("shm-region-prefix-name=")
        self.scratch = Path(self.processes.argument("--backend-directory="))
        assert self.regions()
        return line

    def launch(self, *options: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [*self._command, *options], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and stderr."""
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, errors

    def regions(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"{self.shm_prefix}*")) if self.shm_prefix else []

    def traces(self) -> list:
        """Processes, shared memory and temporary files that are left, given time to go."""
        left = self.processes.wait_until_gone()
        folder = [self.scratch] if self.shm_prefix and self.scratch.exists() else []
        return [*left, *self.regions(), *folder]


@pytest.fixture
def serve(repository, processes, tmp_path) -> Iterator[Serve]:
    serve = Serve(repository, processes, tmp_path / "log")
    yield serve
    for pid in processes.find():
        os.kill(pid, signal.SIGKILL)


def test_sigterm_stops_it_and_leaves_nothing(serve, tmp_path):
    status = json.loads(serve.start("--json"))
    assert status["model"] == "tiny"
    assert status["pid"] == serve.process.pid
    assert status["log_file"] == str(tmp_path / "log")
    for name, scheme in (("grpc_url", ""), ("http_url", "http://"), ("metrics_url", "http://")):
        assert status[name].startswith(f"{scheme}127.0.0.1:")
    # Ctrl-C reaches every process of the terminal's session: tritonserver is in another one.
    session = os.getsid(serve.process.pid)
    assert os.getsid(serve.processes.find("tritonserver")[0]) != session
    serve.process.send_signal(signal.SIGTERM)
    assert serve.end() == (0, "")
    assert serve.traces() == []


def test_a_killed_parent_leaves_nothing(serve):
    line = serve.start("--until-stdin-closes")
    assert line.startswith("Serving tiny (a model of the tests) at 127.0.0.1:")
    serve.process.stdin.close()
    assert serve.process.wait(DEADLINE_S) == 0
    assert serve.process.stdout.read() == ""
    assert serve.traces() == []


def test_kill_9_leaves_nothing(serve):
    serve.start()
    serve.process.kill()
    assert serve.end()[0] == -signal.SIGKILL
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
    serve.start("--restarts", "0")
    serve.processes.kill(program)
    status, errors = serve.end()
    assert status == 1
    assert errors.startswith(f"Error: {message}")
    assert serve.traces() == []


def test_a_death_is_followed_by_a_start_at_the_same_ports(serve, tmp_path):
    status = json.loads(serve.start("--json", "--restarts", "1"))
    regions, port = serve.regions(), status["grpc_url"]
    serve.processes.kill("tritonserver")
    assert "tritonserver ended unexpectedly" in serve.process.stderr.readline()
    assert serve.process.stderr.readline() == f"Serving again at {port}.\n"
    assert not any(region.exists() for region in regions)
    assert (tmp_path / "log.previous.log").is_file()
    serve.processes.kill("tritonserver")
    assert serve.end()[0] == 1
    assert serve.traces() == []


def test_ctrl_c_while_the_models_load(serve):
    serve.launch()
    end = time.monotonic() + DEADLINE_S
    while not serve.processes.find("triton_python_backend_stub") and time.monotonic() < end:
        time.sleep(0.01)
    serve.process.send_signal(signal.SIGINT)
    assert serve.end() == (0, "")
    assert serve.traces() == []


def test_errors_are_one_sentence_and_exit_status_1(serve, repository):
    (repository / "maniqa_moe" / "1" / "model.pt").unlink()
    serve.launch()
    status, errors = serve.end()
    assert status == 1
    assert errors.startswith("Error: The model repository ")
    assert errors.count("\n") == 1


def test_help_has_examples():
    result = subprocess.run(
        [sys.executable, SERVE, "--help"], capture_output=True, text=True, check=True
    )
    assert "python deploy/serve.py --free-ports --json" in result.stdout
    assert "/" not in result.stdout.partition("--repository")[2].partition("--grpc-port")[0]
