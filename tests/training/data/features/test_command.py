"""The command line of features: killed, continued, shared by two processes."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from ma_agiqa.commands.features import main
from support.rated_images import write_config, write_images

COUNT, BATCH = 90, 3
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # for every process alike


def command(config, *arguments, processes=None):
    start = ["-m", "ma_agiqa", "features", "--config", str(config), *map(str, arguments)]
    if processes:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        start = [*torchrun, str(processes), *start]
    return [sys.executable, *start]


def run(config, *arguments, processes=None):
    return subprocess.run(
        command(config, *arguments, processes=processes),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def new_and_old(done):
    found = re.search(r"images +(\d+): (\d+) new, (\d+) already there", done.stdout)
    return tuple(map(int, found.groups()))


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    write_images(folder, COUNT, side=100)
    return write_config(folder, batch_size=BATCH, workers=2)


@pytest.fixture(scope="module")
def uninterrupted(config):
    folder = config.parent / "whole"
    done = run(config, "--set", f"features.folder={folder}")
    assert done.returncode == 0, done.stderr
    assert new_and_old(done) == (COUNT, COUNT, 0)
    assert done.stderr == ""
    return shards(folder)


def kill_in_the_middle(config, folder):
    """Start, wait for a few shards, kill -9; returns how many images were complete then."""
    process = subprocess.Popen(
        command(config, "--set", f"features.folder={folder}"), env=ENVIRONMENT
    )
    try:
        deadline = time.monotonic() + 120
        while len(shards(folder)) < 2:
            assert process.poll() is None, "It ended before it could be killed."
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return BATCH * len(shards(folder))


@pytest.mark.slow
def test_killed_and_continued_by_two_is_the_same_as_in_one_go(config, uninterrupted):
    folder = config.parent / "killed"
    kept = kill_in_the_middle(config, folder)
    assert 2 * BATCH <= kept < COUNT
    done = run(config, "--set", f"features.folder={folder}", processes=2)
    assert done.returncode == 0, done.stderr
    assert new_and_old(done) == (COUNT, COUNT - kept, kept)  # nothing complete is made again
    assert shards(folder) == uninterrupted


@pytest.mark.slow
def test_two_processes_list_bad_images_once(config, uninterrupted):
    folder, bad = config.parent / "two", [1, 4, 80]  # of the first, second and first process
    paths = [config.parent / "images" / f"{index:03}.png" for index in bad]
    for path in paths:
        path.rename(path.with_suffix(".good"))
        path.write_bytes(f"no image {path}".encode())
    done = run(config, "--set", f"features.folder={folder}", processes=2)
    for path in paths:
        path.with_suffix(".good").replace(path)
    assert done.returncode == 1
    assert done.stderr.count(f"3 of {COUNT} images cannot be read") == 1
    for index, path in zip(bad, paths, strict=True):
        assert f"{path} (row {index + 2})" in done.stderr
    arguments = ["--config", str(config), "--set", f"features.folder={folder}"]
    repaired = CliRunner().invoke(main, arguments)
    assert new_and_old(repaired) == (COUNT, 3, COUNT - 3)


def test_refusals_end_in_a_sentence(config, uninterrupted):
    arguments = ["--config", str(config), "--set", f"features.folder={config.parent / 'whole'}"]
    done = CliRunner().invoke(main, [*arguments, "--set", "features.dtype=bfloat16"])
    assert done.exit_code == 1
    assert "its dtype is float32, not bfloat16" in done.stderr
    assert "Traceback" not in done.stderr
