"""deploy/serve.py as a process: its status line, its exit status, and what it leaves behind."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

import serve as serve_py
from support.supervised import Supervised, kill, processes_of
from support.waiting import wait_until


@pytest.fixture
def serve(repository, tmp_path) -> Iterator[Callable[..., Supervised]]:
    """Starts serve.py for a test, at whose end nothing of it may be left."""
    traces: list[Path] = []

    def start(*options: str, ready: bool = True, wrap: Sequence[str] = ()) -> Supervised:
        running = Supervised(repository, tmp_path / "log", *options, ready=ready, wrap=wrap)
        if ready:
            traces.extend([*running.regions(), Path(running.option("--backend-directory="))])
            assert len(traces) > 1
            assert all(path.exists() for path in traces)
        return running

    yield start
    try:
        wait_until(lambda: not processes_of(repository), timeout_s=30)
    finally:
        for pid in processes_of(repository):
            os.kill(pid, signal.SIGKILL)
    assert [path for path in traces if path.exists()] == []


def test_sigterm_stops_it_and_leaves_nothing(serve, tmp_path):
    running = serve()
    assert running.status["model"].startswith("ma-agiqa-demo")
    assert running.status["pid"] == running.process.pid
    assert running.status["log_file"] == str(tmp_path / "log")
    for name, scheme in (("grpc_url", ""), ("http_url", "http://"), ("metrics_url", "http://")):
        assert running.status[name].startswith(f"{scheme}127.0.0.1:")
    # Ctrl-C reaches every process of the terminal's session: tritonserver is in another one.
    session = os.getsid(running.process.pid)
    assert os.getsid(running.pids("tritonserver/bin")[0]) != session
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == (0, "")


def test_a_killed_parent_leaves_nothing(serve):
    running = serve("--until-stdin-closes")
    running.process.stdin.close()
    assert running.end() == (0, "")
    assert running.process.stdout.read() == ""


def test_kill_9_leaves_nothing(serve):
    assert serve().stop(signal.SIGKILL) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("tritonserver", "tritonserver ended unexpectedly"),
        ("guard.py", "tritonserver ended unexpectedly"),
        ("triton_python_backend_stub", "The process of model "),
    ],
)
def test_a_death_while_running_is_told(serve, repository, program, message):
    running = serve("--restarts", "0")
    kill(processes_of(repository, program)[0])
    status, errors = running.end()
    assert status == 1
    assert errors.startswith(f"Error: {message}")


def test_a_death_is_followed_by_a_start_at_the_same_ports(serve, tmp_path):
    running = serve("--restarts", "1")
    regions = running.regions()
    kill(running.pids("tritonserver/bin")[0])
    running.wait_for(f"Serving again at {running.url}.\n")
    assert running.text().startswith("tritonserver ended unexpectedly")
    assert not any(region.exists() for region in regions)
    assert (tmp_path / "log.previous.log").is_file()
    kill(running.pids("tritonserver/bin")[0])
    assert running.end()[0] == 1


def test_ctrl_c_while_the_models_load(serve):
    running = serve(ready=False, wrap=("env", "--default-signal=INT"))
    wait_until(lambda: running.pids("triton_python_backend_stub"))
    running.process.send_signal(signal.SIGINT)
    assert running.end() == (0, "")


def test_nohup_keeps_it_from_ending_at_a_hangup(serve):
    running = serve(wrap=("nohup",))
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    assert running.stop() == 0
    ignored = int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16)
    assert ignored >> (signal.SIGHUP - 1) & 1


def test_errors_are_one_sentence_and_exit_status_1(serve, repository):
    (repository / "maniqa_moe" / "1" / "model.pt").unlink()
    status, errors = serve(ready=False).end()
    assert status == 1
    assert errors.startswith("Error: The model repository ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--address", "0.0.0.0"], 2, "Give a current one with --tritonserver"),
        (["--tls-cert", __file__], 2, "Only one of --tls-cert and --tls-key is given"),
        (["--check", "--http-port", "1"], 1, "no answer from 127.0.0.1:"),
        (["--help"], 0, "python deploy/serve.py --free-ports --json"),
    ],
)
def test_what_needs_no_server(options, status, message):
    done = CliRunner().invoke(serve_py.main, options)
    assert done.exit_code == status
    assert message in done.output.replace("\n", " ")
    assert str(Path(__file__).parents[2]) not in done.output  # as a default in the help
