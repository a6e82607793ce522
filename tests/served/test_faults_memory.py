"""Too little memory of one kind or another, with the real server in a mount namespace of its own.

The small disks are real ones (tmpfs of a given size), so these tests need the right to mount.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from PIL import Image

from exporter.golden import golden_images
from ma_agiqa_client import Retry, Scorer, ServerError, ServerUnavailableError
from support.pictures import encoded, noise
from support.servers import SHIPPED
from support.supervised import Supervised
from support.triton_requests import infer
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.faults
_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def small_disk(size: str, folder: Path) -> tuple[str, ...]:
    """Beginning of a command line that runs the rest where `folder` is a small disk."""
    wrap = ("unshare", "--mount", "sh", "-c", _MOUNT, "sh", size, str(folder))
    done = subprocess.run([*wrap, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    return wrap


def test_a_full_dev_shm_is_an_error_of_the_request_and_the_server_lives(tmp_path):
    wrap = small_disk("20m", Path("/dev/shm"))
    server = Supervised(SHIPPED, tmp_path / "log", wrap=wrap)
    small = golden_images()[0]
    large = encoded(noise(0, 1800, 1800), compress_level=0)  # 9.7 MB, there twice while it is sent
    try:
        with Scorer(server.url, retry=Retry(budget_s=0.1), timeout_s=60) as scorer:
            expected = scorer.score(small).mos
            results = list(scorer.score_many([large] * 8, max_in_flight=8))
            errors = [str(score.error) for score in results if score.error]
            print(len(errors), errors[:1], scorer.score(small).mos - expected)
            assert errors
            assert all("/tmp" not in error and "Traceback" not in error for error in errors)
            assert {type(score.error) for score in results if score.error} == {ServerError}
            assert scorer.score(small).mos == pytest.approx(expected, abs=1e-3)
        assert server.process.poll() is None
        print(server.text())
    finally:
        server.stop()


def test_a_start_without_room_in_dev_shm_says_so(tmp_path):
    line = [sys.executable, ROOT / "deploy" / "serve.py", "--free-ports"]
    done = subprocess.run(
        [*small_disk("2m", Path("/dev/shm")), *map(str, line), "--log-file", str(tmp_path / "log")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "Free some of /dev/shm, or give the container more with --shm-size." in done.stderr


def test_a_full_disk_in_export_leaves_the_repository_as_it_was(tmp_path):
    """On a disk of 7 MB, 4.5 of which the old version takes."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    export = [sys.executable, ROOT / "export" / "to_triton.py", "--repository", disk / "models"]
    script = 'cp -r "$1" "$2/models"; shift 2; "$@"; status=$?; cp -r "$DISK" "$COPY"; exit $status'
    done = subprocess.run(
        [
            *small_disk("7m", disk),
            *("env", f"DISK={disk}/models", f"COPY={copy}", "sh", "-c", script, "sh"),
            *(str(SHIPPED), str(disk), *map(str, export)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert f"The disk of {disk}/models is full" in done.stderr
    assert "Traceback" not in done.stderr
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SHIPPED, tmp_path / "expected", ignore=ignored)
    assert contents(copy) == contents(tmp_path / "expected")


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


GREEDY = """

class Greedy:
    # More than `limit` images at once, or an image whose corner is white, ask torch's allocator
    # for 1 PB, which it refuses as it refuses any other size that is not there.
    def __init__(self, embedder, limit=5):
        self.embedder, self.limit, self.model = embedder, limit, embedder.model

    def __call__(self, views):
        pb_utils.Logger.log_info(f"batch of {len(views)}")
        if len(views) > self.limit or (views[:, 56, 56] == 255).all(dim=1).any():
            torch.empty(1 << 50, dtype=torch.uint8)
        return self.embedder(views)


_build = build_embedder


def build_embedder(**settings):
    return Greedy(_build(**settings))
"""


def test_a_batch_beyond_the_memory_is_halved_and_the_server_lives(tmp_path):
    repository = tmp_path / "models"
    shutil.copytree(SHIPPED, repository)
    model = repository / "mplug_owl2" / "1" / "model.py"
    model.write_text(model.read_text() + GREEDY)
    server = Supervised(repository, tmp_path / "log", "--restarts", "0")
    white = encoded(Image.new("RGB", (64, 64), "white"))
    try:
        with Scorer(server.url, timeout_s=60, retry=Retry(budget_s=0.1)) as scorer:
            expected = [scorer.score(image).mos for image in golden_images()]
            files = golden_images() * 8
            scores = batch(server.url, files)
            np.testing.assert_allclose(scores, expected * 8, atol=1e-3)
            with pytest.raises(ServerUnavailableError, match="too little memory for this image"):
                scorer.score(white)
            mixed = [*files[:7], white, *files[8:16]]
            answers = list(scorer.score_many(mixed, max_in_flight=16))
            assert [bool(score.error) for score in answers] == [i == 7 for i in range(16)]
        wait_until(lambda: "batch of 32" in (tmp_path / "log").read_text())
        assert server.text() == ""
    finally:
        assert server.stop() == 0


def batch(url: str, files: list[bytes]) -> np.ndarray:
    """Scores of image files that are sent as one request."""
    with tritonclient.grpc.InferenceServerClient(url) as client:
        return infer(client, *files)["SCORE"][:, 0]
