"""serve.py as a container runs it: with a tritonserver of its own, and settings in the environment.

Here that tritonserver is the embedded one, with its backends laid out as an installed one has them.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded.processes import model_of_stub
from embedded.runtime import find_runtime
from support.local_hub import free_port
from support.pictures import encoded
from support.supervised import SERVE as SERVE_FILE
from support.triton_requests import image_tensor
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SERVE = [sys.executable, str(SERVE_FILE)]
SHM_PREFIX = f"ma-agiqa-test-{os.getpid()}-"
DECIDED = ("MA_AGIQA_CORES", "OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


class Container:
    """A running serve.py; what it writes is in `folder / "log"`."""

    def __init__(self, folder: Path, repository: Path, settings: dict[str, str], wrap=()):
        runtime = find_runtime()
        if not (folder / "backends").is_dir():
            runtime.lay_out_backends(folder / "backends")
        self.folder, self.key_file = folder, folder / "probe-key"
        self.grpc, self.http, self.metrics = (free_port() for _ in range(3))
        inherited = {k: v for k, v in runtime.environment().items() if k not in DECIDED}
        container = {"PROBE_KEY_FILE": str(self.key_file), "SHM_PREFIX": SHM_PREFIX}
        container |= {"MODEL_REPOSITORY": str(repository), "RESTARTS": "0", "DRAIN_S": "60"}
        command = [
            *(*wrap, *SERVE, "--tritonserver", str(runtime.tritonserver), "--log-file", "-"),
            *("--grpc-port", str(self.grpc), "--http-port", str(self.http)),
            *("--metrics-port", str(self.metrics), "--"),
            f"--backend-directory={folder / 'backends'}",
        ]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=inherited | container | settings, stdout=log, stderr=log
            )

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.grpc}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def check(self, timeout_s: float = 10.0, key_file: Path | None = None):
        """Run `serve.py --check`."""
        options = ["--http-port", str(self.http), "--check-timeout", str(timeout_s)]
        environment = {**os.environ, "PROBE_KEY_FILE": str(key_file or self.key_file)}
        return subprocess.run(
            [*SERVE, "--check", *options], capture_output=True, text=True, env=environment
        )

    def wait(self) -> None:
        """Until it is ready."""
        wait_until(lambda: "Serving " in self.log or self.process.poll() is not None)
        assert "Serving " in self.log, self.log

    def stubs(self) -> dict[str, int]:
        """Pid of the process of each model."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        names = {model_of_stub(child.pid): child.pid for child in children}
        return {name: pid for name, pid in names.items() if name}

    def kill_all(self) -> None:
        """Kill everything, as the end of process 1 of a container does: nothing is cleaned up."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid)
            main.suspend()
            for process in [*main.children(recursive=True), main]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Container]]:
    """Starts containers, and kills those that are left at the end of the module."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, repository: Path, wrap=(), **settings: str) -> Container:
            container = Container(folder, repository, settings, wrap)
            stack.callback(container.kill_all)
            container.wait()
            return container

        yield start
    for region in regions():
        region.unlink()


@pytest.fixture(scope="module")
def shipped(start, tmp_path_factory) -> Container:
    """The shipped models."""
    return start(
        tmp_path_factory.mktemp("container"),
        ROOT / "model_repository",
        LOG_FORMAT="json",
        MA_AGIQA_REQUEST_LOG="1",
        MA_AGIQA_ADMIN_KEY="open sesame",
        MA_AGIQA_CORES="3",
        SHM_PREFIX=f"{SHM_PREFIX}shipped-",
    )


def regions() -> set[Path]:
    return set(Path("/dev/shm").glob(f"{SHM_PREFIX}*"))


def score(client: tritonclient.grpc.InferenceServerClient, image: bytes | None = None, **options):
    """Score of an image, by default of a gray one that the stand-in gives 1."""
    tensor = image_tensor(image or encoded(np.full((8, 8, 3), 51, np.uint8)))
    result = client.infer("ma_agiqa", [tensor], client_timeout=60, **options)
    return float(result.as_numpy("SCORE")[0, 0])


def test_it_serves_and_everything_it_writes_is_json(shipped):
    assert re.fullmatch(r"Alive, score \d\.\d{3}, \d\.\d{3}\.\n", shipped.check().stdout)
    lines = [json.loads(line) for line in shipped.log.splitlines()]
    assert any(line.get("level") == "info" for line in lines)
    assert any(line.get("message", "").startswith("Serving ma-agiqa-demo") for line in lines)


def test_threads_are_those_of_the_container_and_not_of_the_machine(shipped):
    stubs = shipped.stubs()
    environment = Path(f"/proc/{stubs['maniqa_moe']}/environ").read_bytes().split(b"\0")
    assert {b"MA_AGIQA_CORES=3", b"OMP_NUM_THREADS=1"} <= set(environment)
    assert b"MALLOC_TRIM_THRESHOLD_=268435456" in environment
    image = (ROOT / "examples" / "coffee_blur.jpg").read_bytes()
    with (
        tritonclient.grpc.InferenceServerClient(shipped.url) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(lambda _: score(client, image), range(16)))
    threads = {name: len(os.listdir(f"/proc/{stubs[name]}/task")) for name in stubs}
    # As `meter`, and one that reads the queues' lengths, and one for each core to decode.
    assert threads["preprocess"] == threads["meter"] + 1 + 3


def test_requests_are_logged_with_their_ids(shipped):
    files = {"good one": ROOT / "examples" / "coffee_blur.jpg", "bad one": ROOT / "LICENSE"}
    with tritonclient.grpc.InferenceServerClient(shipped.url) as client:
        for name, file in files.items():
            with contextlib.suppress(InferenceServerException):  # the bad one
                score(client, file.read_bytes(), request_id=name)
    wait_until(lambda: set(files) <= set(logged(shipped)))
    requests = logged(shipped)
    assert (requests["good one"]["outcome"], requests["good one"]["step"]) == ("scored", "meter")
    assert requests["bad one"]["outcome"] == "refused"
    assert requests["bad one"]["step"] == "preprocess"
    assert requests["bad one"]["level"] == "info"
    assert requests["check"]["outcome"] == "scored"


def logged(container: Container) -> dict[str, dict]:
    """Lines of the request log by the request's id."""
    text = container.log
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return {line["request_id"]: line for line in lines if line.get("request_id")}


def test_no_one_else_scores_over_http(shipped, tmp_path):
    assert shipped.key_file.stat().st_mode & 0o777 == 0o600
    done = shipped.check(key_file=tmp_path / "no-key")
    assert done.returncode == 1
    assert "restricted" in done.stderr


def test_models_are_managed_with_the_key_alone(shipped):
    with tritonclient.grpc.InferenceServerClient(shipped.url) as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.load_model("meter")
        client.load_model("meter", headers={"triton-grpc-protocol-admin-key": "open sesame"})


def test_a_model_that_stops_is_found_out_and_a_dead_one_ends_the_container(shipped):
    """The last one with this server."""
    os.kill(shipped.stubs()["meter"], signal.SIGSTOP)  # the steps before it continue
    assert shipped.check(timeout_s=4).returncode == 1
    os.kill(shipped.stubs()["mplug_owl2"], signal.SIGKILL)
    assert shipped.process.wait(60) == 1
    assert "The process of model mplug_owl2 ended unexpectedly." in shipped.log
    assert shipped.check().returncode == 1
    assert not shipped.key_file.exists()


def test_regions_of_a_killed_server_are_removed_by_the_next(start, tmp_path, repository):
    start(tmp_path, repository).kill_all()
    left = regions()
    assert left
    second = start(tmp_path, repository)
    assert "Serving ma-agiqa-demo" in second.log
    assert not left & regions()
    assert regions()


def test_what_is_in_flight_at_sigterm_is_answered(start, tmp_path, repository, change):
    begun = tmp_path / "begun"
    change("maniqa_moe", "return [self", f"open({str(begun)!r}, 'a').close()\n        return [self")
    change("maniqa_moe", "time.sleep(", "time.sleep(1.5 or ")
    running = start(tmp_path, repository, WATCH_S="1000")
    begun.unlink()
    with (
        ThreadPoolExecutor(1) as pool,
        tritonclient.grpc.InferenceServerClient(running.url) as client,
    ):
        answer = pool.submit(score, client)
        wait_until(begun.exists)
        running.process.send_signal(signal.SIGTERM)
        assert answer.result() == 1.0
    assert running.process.wait(60) == 0
    assert not regions()


def test_as_process_1_of_a_container_it_reaps_and_stops(start, tmp_path, repository):
    wrap = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to create namespaces")
    running = start(tmp_path, repository, wrap=wrap)
    (main,) = psutil.Process(running.process.pid).children()
    enter = ["nsenter", "--target", str(main.pid), "--pid", "--mount"]
    subprocess.run([*enter, "sh", "-c", "sleep 0.2 & sh -c 'sleep 0.1 &'"], check=True)
    wait_until(lambda: psutil.STATUS_ZOMBIE not in {c.status() for c in main.children()})
    main.terminate()
    assert running.process.wait(60) == 0
    assert not regions()
