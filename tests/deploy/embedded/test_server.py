"""EmbeddedTriton with the real tritonserver."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded import guard, process
from embedded.errors import (
    PortBusyError,
    RepositoryError,
    ServeError,
    ServerFailedError,
    UnsupportedMachineError,
)
from embedded.launch import Launch, Ports
from embedded.security import Security
from embedded.server import EmbeddedTriton
from support.local_hub import free_port
from support.pictures import encoded
from support.servers import serving
from support.supervised import processes_of
from support.triton_requests import infer

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def listening_addresses(ports) -> set[str]:
    """IPv4 addresses on which any of the ports is open; IPv6 sockets carry them mapped."""
    tables = (Path("/proc/net", file).read_text() for file in ("tcp", "tcp6"))
    lines = [line.split() for table in tables for line in table.splitlines()]
    found = [line[1].split(":") for line in lines if line[3] == "0A"]
    raw = [bytes.fromhex(address)[-4:] for address, port in found if int(port, 16) in ports]
    assert len(raw) == len(ports)
    return {socket.inet_ntoa(address[::-1]) for address in raw}


def test_serves_scores_and_leaves_nothing(repository, tmp_path):
    log_file = tmp_path / "folder" / "server.log"
    with EmbeddedTriton(repository, free_ports=True, log_file=log_file) as server:
        assert server.model.name.startswith("ma-agiqa-demo")
        assert server.model.note.startswith("Demo model: ")
        assert len(set(server.ports)) == 3
        with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
            gray = encoded(np.full((8, 8, 3), 102, np.uint8))
            assert infer(client, gray)["SCORE"].tolist() == [[2.0]]  # 102 / 51
            with pytest.raises(InferenceServerException, match="restricted"):
                client.get_system_shared_memory_status()
        assert listening_addresses(server.ports) == {"127.0.0.1"}
        assert server.check() == []
        command = psutil.Process(server.pid).cmdline()
        prefix, folder = (
            next(word.partition(name)[2] for word in command if name in word)
            for name in ("shm-region-prefix-name=", "--backend-directory=")
        )
        assert {region.stat().st_mode & 0o777 for region in guard.regions(prefix)} == {0o600}
        assert Path(folder).is_dir()
    assert processes_of(repository) == guard.regions(prefix) == []
    assert not Path(folder).exists()
    assert "Started GRPCInferenceService" in log_file.read_text()


@pytest.mark.parametrize("service", ["grpc", "http", "metrics"])
def test_a_busy_port_is_named(repository, service):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        ports = {name: free_port() for name in ("grpc", "http", "metrics")} | {service: port}
        server = EmbeddedTriton(repository, **{f"{name}_port": n for name, n in ports.items()})
        with pytest.raises(PortBusyError, match=f"Port {port} .*--{service}-port.*--free-ports"):
            server.start()


def test_the_same_port_twice(repository):
    with pytest.raises(ServeError, match="have to differ, received 8001, 8001, 8002"):
        EmbeddedTriton(repository, http_port=8001).start()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("", r"no model repository at .*export/to_triton\.py"),
        ("ma_agiqa", r"no ma_agiqa/config\.pbtxt"),
        ("maniqa_moe/1", r"no version of maniqa_moe .*export/to_triton\.py"),
    ],
)
def test_what_is_missing_in_a_repository_is_named(repository, missing, message):
    shutil.rmtree(repository / missing)
    with pytest.raises(RepositoryError, match=message):
        EmbeddedTriton(repository, free_ports=True).start()


@pytest.mark.parametrize("name", ["with space", "ünï", "quo'te"])
def test_a_path_that_triton_cannot_pass_on_is_served(repository, tmp_path, name):
    with serving(repository.rename(tmp_path / name)) as server:
        assert server.model.name.startswith("ma-agiqa-demo")


def test_a_folder_without_a_configuration_is_no_model(repository):
    """As an export of an older program leaves it that was killed."""
    (repository / "ma_agiqa_v2" / "1").mkdir(parents=True)
    with serving(repository) as server:
        assert server.model.name.startswith("ma-agiqa-demo")


def test_a_path_for_temporary_files_that_triton_cannot_pass_on(repository, tmp_path, monkeypatch):
    (tmp_path / "with space").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "with space"))
    with pytest.raises(ServeError, match=r"with space, has a space .* by the variable TMPDIR"):
        EmbeddedTriton(repository, free_ports=True).start()
    assert list((tmp_path / "with space").iterdir()) == []


def test_packages_in_a_path_that_the_stub_cannot_read(repository, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/opt/jürgen/.venv")
    with pytest.raises(UnsupportedMachineError, match=r"from /opt/jürgen/.* not ASCII: move them"):
        EmbeddedTriton(repository, free_ports=True).start()


def test_two_servers_do_not_share_a_log(repository, tmp_path):
    with serving(repository, log_file=tmp_path / "log") as server:
        key = (tmp_path / "log.key").read_text()
        with pytest.raises(ServeError, match=r"Another server writes to the log file .*--log-file"):
            EmbeddedTriton(repository, free_ports=True, log_file=tmp_path / "log").start()
        assert (tmp_path / "log.key").read_text() == key
        assert "Started GRPCInferenceService" in server.log_file.read_text()


def test_an_interrupted_start_leaves_nothing(tmp_path, monkeypatch):
    """The signal comes while the guard says nothing yet."""
    (tmp_path / "guard.py").write_text(
        f"import os, sys\nos.kill({os.getpid()}, {signal.SIGUSR1})\nsys.stdin.read()"
    )
    monkeypatch.setattr(process, "_GUARD", tmp_path / "guard.py")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    arguments = [], Ports(1, 2, 3), tmp_path / "log", Security(), Launch()
    try:
        with pytest.raises(KeyboardInterrupt):
            process.TritonServer(tmp_path, *arguments)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert {path.name for path in tmp_path.iterdir()} == {"guard.py", "log"}
    assert processes_of(tmp_path) == []


def test_an_interrupted_stop_can_be_finished(tmp_path):
    server, stops = EmbeddedTriton(tmp_path), [KeyboardInterrupt, None]
    server.http = mock.Mock()
    server._server = mock.Mock(**{"stop.side_effect": stops})
    with pytest.raises(KeyboardInterrupt):
        server.stop(failed=True)
    running = server._server
    server.stop()
    server.stop()
    assert running.stop.call_count == len(stops)


def test_a_model_that_does_not_load(repository, change, tmp_path):
    change("mplug_owl2", "import json", "import a_package_that_is_not_there, json")
    with pytest.raises(ServerFailedError) as caught:
        EmbeddedTriton(repository, free_ports=True, log_file=tmp_path / "log").start()
    message = str(caught.value)
    assert "Model mplug_owl2 failed to load" in message
    assert "No module named 'a_package_that_is_not_there'. Install the package" in message
    assert "At:" not in message
    assert str(tmp_path / "log") in message
    assert processes_of(repository) == []


def test_the_self_test_refuses_scores_that_are_not_numbers(repository, change, tmp_path):
    change("maniqa_moe", "(score[:, None], gate", "(score[:, None] * np.nan, gate")
    server = EmbeddedTriton(repository, free_ports=True, log_file=tmp_path / "log")
    with pytest.raises(ServerFailedError, match=r"SCORE of a test image is \[nan\]"):
        server.start()


def test_a_start_that_takes_too_long(repository, change, tmp_path):
    change("maniqa_moe", "import time\n", "import time\ntime.sleep(60)\n")
    server = EmbeddedTriton(
        repository, free_ports=True, log_file=tmp_path / "log", ready_timeout_s=1.5
    )
    with pytest.raises(ServerFailedError, match=r"not ready within 1\.5 s.*--ready-timeout"):
        server.start()
    assert processes_of(repository) == []


def test_a_log_that_cannot_be_written(repository, tmp_path):
    (tmp_path / "file").write_text("")
    server = EmbeddedTriton(repository, free_ports=True, log_file=tmp_path / "file" / "log")
    with pytest.raises(ServeError, match=r"cannot be written.*--log-file"):
        server.start()


def test_the_log_is_in_the_checkout_by_default(tmp_path):
    server = EmbeddedTriton(tmp_path, free_ports=True, self_test=False)
    with server:
        assert server.log_file == DEPLOY.parent / "logs" / f"serve-{server.ports.grpc}.log"
    server.log_file.unlink()


def test_a_program_that_is_not_there(repository, tmp_path):
    launch = Launch(tritonserver=tmp_path / "tritonserver")
    with pytest.raises(UnsupportedMachineError, match="give --tritonserver the path"):
        EmbeddedTriton(repository, free_ports=True, launch=launch).start()


def test_a_missing_wheel():
    # -S leaves the installed packages out.
    code = (
        f"import sys; sys.path.insert(0, {str(DEPLOY)!r})\nfrom embedded import runtime\n"
        "try:\n    runtime.find_runtime()\n"
        "except runtime.UnsupportedMachineError as error:\n    sys.stdout.write(str(error))\n"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert "nvidia-pytriton, which carries tritonserver, is not installed" in result.stdout
    assert "pip install nvidia-pytriton==0.7.0" in result.stdout


@pytest.mark.parametrize(
    ("target", "value", "message"),
    [
        ("platform.machine", lambda: "riscv64", "this is Linux riscv64 glibc"),
        ("platform.libc_ver", lambda: ("", ""), "Linux with glibc"),
        ("importlib.metadata.version", lambda name: "2.1.0", r"pip install 'numpy<2'"),
    ],
)
def test_an_unsupported_platform(repository, monkeypatch, target, value, message):
    monkeypatch.setattr(target, value)
    with pytest.raises(UnsupportedMachineError, match=message):
        EmbeddedTriton(repository, free_ports=True).start()
