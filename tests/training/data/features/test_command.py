"""The command line of features: killed, gone on with, shared by two processes."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from ma_agiqa.errors import ConfigError
from ma_agiqa.data.features import FeatureStore
from ma_agiqa.commands.features import main
from ma_agiqa.data.features.ensure import ensure_features
from ma_agiqa.train.config import load_config
from support.rated_images import file_bytes, write_config, write_images

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
    return file_bytes(folder)


def kill_in_the_middle(config, folder):
    """Start, wait for a few complete rows, kill -9; returns how many were complete then."""
    process = subprocess.Popen(
        command(config, "--set", f"features.folder={folder}"), env=ENVIRONMENT
    )
    try:
        deadline = time.monotonic() + 120
        while not FeatureStore.exists(folder) or FeatureStore(folder).done().sum() < 2 * BATCH:
            assert process.poll() is None, "It ended before it could be killed."
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return int(FeatureStore(folder).done().sum())


def test_killed_and_gone_on_with_by_two_is_the_same_as_in_one_go(config, uninterrupted):
    folder = config.parent / "killed"
    kept = kill_in_the_middle(config, folder)
    assert 2 * BATCH <= kept < COUNT
    done = run(config, "--set", f"features.folder={folder}", processes=2)
    assert done.returncode == 0, done.stderr
    assert new_and_old(done) == (COUNT, COUNT - kept, kept)  # nothing complete is made again
    assert file_bytes(folder) == uninterrupted


def test_two_processes_list_bad_images_and_make_the_others_as_one_does(config, uninterrupted):
    folder, bad = config.parent / "two", [1, 4, 80]  # of the first, second and first process
    paths = [config.parent / "images" / f"{index:03}.png" for index in bad]
    for path in paths:
        path.rename(path.with_suffix(".good"))
        path.write_bytes(b"no image")
    done = run(config, "--set", f"features.folder={folder}", processes=2)
    for path in paths:
        path.with_suffix(".good").replace(path)
    assert done.returncode == 1
    assert done.stderr.count(f"3 of {COUNT} images cannot be read") == 1
    for index, path in zip(bad, paths, strict=True):
        assert f"{path} (row {index + 2})" in done.stderr
    assert FeatureStore(folder).done().sum() == COUNT - 3
    mended = run(config, "--set", f"features.folder={folder}")
    assert new_and_old(mended) == (COUNT, 3, COUNT - 3)
    assert file_bytes(folder) == uninterrupted


def test_refusals_end_in_a_sentence(config, uninterrupted):
    arguments = ["--config", str(config), "--set", f"features.folder={config.parent / 'whole'}"]
    done = CliRunner().invoke(main, [*arguments, "--set", "features.dtype=bfloat16"])
    assert done.exit_code == 1
    assert "embedder.dtype is 'float32' there, but 'bfloat16' is wanted" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_finds_out_at_once_that_its_scorer_wants_another_width(tmp_path):
    images = write_images(tmp_path, 2)
    config = load_config(write_config(tmp_path), {"scorer.semantic_dim": "64"})
    with pytest.raises(ConfigError, match=r"semantic_dim is 64, .* 128 values; set it to 128"):
        ensure_features(config, images)
    assert not (tmp_path / "features").exists()


def test_a_run_gets_the_features_of_its_images(tmp_path):
    images = write_images(tmp_path, 5)
    config = load_config(write_config(tmp_path))
    features = ensure_features(config, images)
    assert (features.folder, len(features)) == (tmp_path / "features", 5)
    made = (tmp_path / "features" / "semantic.npy").stat().st_mtime_ns
    again = ensure_features(config, images[:2])
    assert np.array_equal(again.semantic, features.semantic)
    assert (tmp_path / "features" / "semantic.npy").stat().st_mtime_ns == made
