"""The load test's images and report, and a run of locust against the real server."""

import io
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LOAD = ROOT / "deploy" / "load"


@pytest.fixture
def load(monkeypatch):
    """The modules beside the locustfile; it itself would patch this process."""
    monkeypatch.syspath_prepend(LOAD)
    import load_images
    import load_report

    return load_images, load_report


def test_images_are_of_the_sizes_and_formats_asked_for(load):
    images = load[0].make_images([64, 96], ["jpeg", "webp"])
    opened = {
        (i.kind, Image.open(io.BytesIO(i.data)).format, Image.open(io.BytesIO(i.data)).size)
        for i in images
    }
    assert opened == {
        (f"{side} {name}", name.upper(), (side, side))
        for side in (64, 96)
        for name in ("jpeg", "webp")
    }
    assert len({image.data for image in images}) == len(images)


def test_a_folder_of_files(load, tmp_path):
    with pytest.raises(ValueError, match="holds no files"):
        load[0].read_images(tmp_path)
    images = load[0].read_images(ROOT / "examples")
    assert {image.kind for image in images} == {"jpg"}


def run_locust(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    fixed = ["--headless", "--only-summary", "-u", "3", "-r", "3", "-t", "8s", "--host", url]
    small = ["--sizes", "128", "--formats", "jpeg", "--job-width", "4", "--prompt-seconds", "1"]
    command = [sys.executable, "-m", "locust", "-f", str(LOAD / "locustfile.py")]
    return subprocess.run(
        [*command, *fixed, *small, *options], capture_output=True, text=True, check=False
    )


def test_a_run_reports_every_kind_of_user_and_fails_past_its_limits(server):
    done = run_locust(server.grpc_url, "--max-p95-ms", "0.001")
    assert done.returncode == 1, done.stdout + done.stderr
    for user in ("batch", "generation", "person"):
        assert f"{user}, " in done.stdout
    assert "FAILED  p95 ms: " in done.stdout
    assert "FAILED  share of errors" not in done.stdout, done.stdout


def test_errors_are_told_by_kind(unused_port):
    done = run_locust(f"127.0.0.1:{unused_port}", "-t", "2s")
    assert done.returncode == 1
    assert "FAILED  share of errors: 1, allowed is at most 0." in done.stdout
    assert "UNAVAILABLE" in done.stdout.partition("\nerrors\n")[2]


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
