"""The load test's images and report, and a run of locust against the real server."""

import io
import json
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from load.images import make_images
from ma_agiqa_client._programs.embedded import listens
from support.local_hub import free_port
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
LOAD = ROOT / "deploy" / "load"


def test_images_are_of_the_sizes_and_formats_asked_for():
    images = make_images([64, 96], ["jpeg", "webp"])
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


def run_locust(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    fixed = ["--headless", "--only-summary", "-u", "3", "-r", "3", "-t", "8s", "--host", url]
    small = ["--sizes", "128", "--formats", "jpeg", "--job-width", "4", "--prompt-seconds", "1"]
    command = [sys.executable, "-m", "locust", "-f", str(LOAD / "locustfile.py")]
    return subprocess.run(
        [*command, *fixed, *small, *options], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_run_reports_every_kind_of_user_and_fails_past_its_limits(server):
    done = run_locust(server.grpc_url, "--max-p95-ms", "0.001")
    assert done.returncode == 1, done.stdout + done.stderr
    for user in ("batch", "generation", "person"):
        assert f"{user}, " in done.stdout
    assert "FAILED  p95 ms: " in done.stdout
    assert "FAILED  share of errors" not in done.stdout, done.stdout


def test_errors_are_told_by_kind():
    done = run_locust(f"127.0.0.1:{free_port()}", "-t", "2s")
    assert done.returncode == 1
    assert "FAILED  share of errors: 1, allowed is at most 0." in done.stdout
    assert "UNAVAILABLE" in done.stdout.partition("\nerrors\n")[2]


@pytest.mark.slow
def test_the_form_of_the_web_page_changes_the_images_of_the_next_run(server):
    port = free_port()
    command = [sys.executable, "-m", "locust", "-f", str(LOAD / "locustfile.py")]
    where = ["--host", server.grpc_url, "--web-host", "127.0.0.1", "--web-port", str(port)]
    small = ["--sizes", "64", "--formats", "jpeg", "--generation-servers", "0", "--people", "0"]
    page = f"http://127.0.0.1:{port}"
    with subprocess.Popen([*command, *where, *small], stderr=subprocess.DEVNULL) as locust:
        try:
            wait_until(lambda: listens(f"127.0.0.1:{port}"))
            assert "images_per_prompt" in get(page)
            for size in ("64", "96"):
                form = {"user_count": 1, "spawn_rate": 1, "sizes": size, "formats": "png"}
                data = urllib.parse.urlencode(form).encode()
                assert json.loads(get(f"{page}/swarm", data))["success"]
                wait_until(lambda size=size: f"batch, {size} png" in kinds(page))
                get(f"{page}/stop", b"")
                assert json.loads(get(f"{page}/stats/requests"))["fail_ratio"] == 0
        finally:
            locust.terminate()


def get(address: str, data: bytes | None = None) -> str:
    with urllib.request.urlopen(address, data, timeout=10) as answer:
        return answer.read().decode()


def kinds(page: str) -> set[str]:
    entries = json.loads(get(f"{page}/stats/requests"))["stats"]
    return {entry["name"] for entry in entries} - {"Aggregated"}
