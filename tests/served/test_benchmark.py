"""The benchmarks of serving against the real server: what they say adds up."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ma_agiqa.benchmark._one_process import Layout, OneProcess
from ma_agiqa.benchmark.served import measure_served, read_files
from ma_agiqa.commands.benchmark import main
from ma_agiqa.errors import ConfigError
from ma_agiqa_client import Scorer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [ROOT / "examples"]
REPOSITORY = ROOT / "model_repository"


@pytest.fixture(scope="module")
def one_process():
    return OneProcess(REPOSITORY)


def test_one_process_computes_what_is_served(server, one_process):
    files = read_files(EXAMPLES)[:8]
    with Scorer(server.grpc_url) as scorer:
        served = [score.mos for score in scorer.score_many(files)]
    np.testing.assert_allclose(one_process.score(files), served, atol=1e-3)


def test_both_are_measured_on_the_same_images(server):
    speed = measure_served(REPOSITORY, EXAMPLES, (2, 4), server.grpc_url, seconds=0.5, rounds=1)
    assert [load.concurrency for load in speed.loads] == [2, 4]
    for load in speed.loads:
        assert load.images == len(load.latencies_ms) > 0
        assert load.percentile_ms(50) <= load.percentile_ms(99)
        share = load.images_per_s / speed.one_process.images_per_s
        assert speed.shares[load.concurrency] == pytest.approx(share)
    assert speed.layouts[speed.best].images_per_s == max(
        rate.images_per_s for rate in speed.layouts.values()
    )
    assert speed.start_s is None  # of a server that ran already


def test_the_command_starts_a_server_and_shows_where_the_time_goes():
    options = [
        "served",
        "--concurrency",
        "1",
        "--concurrency",
        "2",
        "--seconds",
        "0.5",
        "--rounds",
        "1",
    ]
    done = CliRunner().invoke(main, [*options, "--images", str(EXAMPLES[0])])
    assert done.exit_code == 0, done.output
    assert re.search(r"start +[\d.]+ s", done.stdout)
    assert len(re.findall(r"^ +[12]( +[\d.]+){4}  \d+%$", done.stdout, re.MULTILINE)) == 2
    for process in ("tritonserver", "preprocess", "mplug_owl2", "maniqa_moe", "client"):
        assert re.search(rf"^  {process} +[\d.]+$", done.stdout, re.MULTILINE), done.stdout


def test_a_layout_says_what_it_is():
    assert str(Layout(workers=1, threads=2, batch=8)) == "batch 8, 2 threads each"
    assert str(Layout(workers=2, threads=1, batch=4)) == "batch 4, 2 at once, 1 thread each"


def test_images_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No images were found"):
        read_files([tmp_path])


def test_a_server_that_is_not_there():
    options = ["served", "--url", "127.0.0.1:9", "--images", str(EXAMPLES[0])]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 1
    assert "No server answers at 127.0.0.1:9" in done.stderr
