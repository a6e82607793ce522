"""The benchmarks of serving against the real server: what they print adds up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from load.bench import main
from load.generator import LoadError, Target
from load.images import read_images
from load.one_process import OneProcess
from load.overload import on_cores
from load.served import measure_served
from ma_agiqa.pipeline import ImageScorer
from ma_agiqa_client import Scorer

ROOT = Path(__file__).resolve().parents[2]
FILES = [image.data for image in read_images([ROOT / "examples"])]
OVERLOAD = ("--times", 2, "--seconds", 1, "--images", ROOT / "examples" / "coffee_pristine.jpg")


def bench(*words: object, status: int = 0) -> Result:
    """Run a command of deploy/load/bench.py."""
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == status, done.output
    return done


@pytest.fixture(scope="module")
def one_process():
    return OneProcess(ImageScorer.load(ROOT / "training" / "checkpoints" / "demo"))


def test_one_process_computes_what_is_served(server, one_process):
    with Scorer(server.grpc_url) as scorer:
        served = [score.mos for score in scorer.score_many(FILES[:8])]
    np.testing.assert_allclose(one_process.score(FILES[:8]), served, atol=1e-3)


@pytest.mark.slow
def test_both_are_measured_on_the_same_images(server, one_process):
    with Target(server.grpc_url) as target:
        speed = measure_served(target, one_process, FILES, (2, 4), seconds=0.5, rounds=1)
    for count, (load,) in speed.loads.items():
        assert load.in_flight == count
        assert load.images == len(load.latencies_ms) > 0
        assert load.percentile_ms(50) <= load.percentile_ms(99)
        assert speed.share(count) == load.images_per_s / speed.rates[0].images_per_s
    assert speed.layouts[speed.best].images_per_s == max(
        rate.images_per_s for rate in speed.layouts.values()
    )
    assert speed.cpu_ms == []  # of a server that ran already


@pytest.mark.slow
def test_the_command_starts_a_server_and_shows_where_the_time_goes():
    options = ("--in-flight", 1, "--in-flight", 2, "--seconds", 0.5, "--rounds", 1)
    done = bench("served", *options)
    assert re.search(r"start +[\d.]+ s", done.stdout)
    assert len(re.findall(r"^ +[12]( +[\d.]+){4}  \d+%$", done.stdout, re.MULTILINE)) == 2
    for process in ("tritonserver", "preprocess", "mplug_owl2", "maniqa_moe", "client"):
        assert re.search(rf"^  {process} +[\d.]+$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_score_many_is_compared_with_plain_clients(server):
    options = ("--url", server.grpc_url, "--rounds", 1, "--seconds", 0.5, "--side", 64)
    done = bench("throughput", *options, "--in-flight", 16)
    assert len(re.findall(r"^[\w ]+ [\d.]+ images/s  \(", done.stdout, re.MULTILINE)) == 3
    assert re.search(r"score_many: \d+% of the best of the others, ", done.stdout)


@pytest.mark.slow
def test_the_reward_server_gives_what_score_many_gives(server):
    done = bench(*("rewards", "--url", server.grpc_url, "--rounds", 1, "--batch", 8, "--side", 64))
    line = r"^[\w ]+ score_many [\d.]+ s   rewards [\d.]+ s   [+-][\d.]+%$"
    assert len(re.findall(line, done.stdout, re.MULTILINE)) == 3, done.stdout


@pytest.mark.slow
def test_a_soak_sees_every_process():
    done = bench("soak", "--minutes", 0.05, "--limit", 1000)
    for name in ("tritonserver", "preprocess", "mplug_owl2", "maniqa_moe", "meter", "all"):
        assert re.search(rf"^{name} +[\d.]+ -> +[\d.]+ MiB", done.stdout, re.MULTILINE)
    assert re.search(r"^0.05 min, \d+ images, 0 errors", done.stdout, re.MULTILINE)


def test_images_that_are_not_there(tmp_path):
    with pytest.raises(LoadError, match="No images were found"):
        read_images([tmp_path])


def test_a_server_that_is_not_there():
    done = bench("served", "--url", "127.0.0.1:9", status=1)
    assert "No server answers at 127.0.0.1:9" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 3])
def test_the_outcomes_of_an_overload_add_up(server, images):
    options = ("--url", server.grpc_url, *OVERLOAD, "--images-per-request", images)
    done = bench("overload", *options)
    found = re.search(r"sent +([\d.]+) images/s for ([\d.]+) s", done.stdout)
    sent, seconds = map(float, found.groups())
    requests = re.findall(r"requests +(\d+) (\w+), 95 % within \d+ ms", done.stdout)
    counts = {outcome: int(count) for count, outcome in requests}
    assert images * sum(counts.values()) == pytest.approx(sent * seconds, rel=0.06)
    assert set(counts) <= {"scored", "late", "UNAVAILABLE", "CANCELLED"}
    assert counts["scored"] > 0
    assert re.search(r"goodput +[\d.]+ images/s scored in time: \d+% of the capacity", done.stdout)
    assert re.search(r"recovery +([\d.]+|inf) s until as fast as before", done.stdout)
    assert "memory" not in done.stdout  # of a server that ran already


@pytest.mark.slow
def test_an_overload_fails_past_its_limits(server):
    limits = ("--min-goodput", 99, "--max-recovery-s", -1, "--max-refused-p95-ms", 60000)
    done = bench("overload", "--url", server.grpc_url, *OVERLOAD, *limits, status=1)
    assert re.search(r"FAILED +goodput as a share .*, allowed is at least 99\.", done.stdout)
    assert re.search(r"FAILED +recovery, s: .*, allowed is at most -1\.", done.stdout)
    assert "refusals" not in done.stdout


def test_what_is_started_inherits_the_cores():
    before = os.sched_getaffinity(0)
    with on_cores([min(before)]):
        code = "import os; print(os.sched_getaffinity(0))"
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert seen.stdout.decode().strip() == str({min(before)})
    assert os.sched_getaffinity(0) == before
