"""The command that overloads a server: every number is there and they add up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ma_agiqa.benchmark.overload import on_cores
from ma_agiqa.commands.benchmark import main

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "coffee_pristine.jpg"


@pytest.mark.parametrize("images", [1, 3])
def test_the_outcomes_add_up(server, images):
    options = ["--url", server.grpc_url, "--times", "2", "--seconds", "2", "--images", str(EXAMPLE)]
    options += ["--images-per-request", str(images)]
    done = CliRunner().invoke(main, ["overload", *options])
    assert done.exit_code == 0, done.output
    sent = float(re.search(r"sent +([\d.]+) images/s for 2 s", done.stdout)[1])
    outcomes = re.search(r"outcomes +(.*)", done.stdout)[1].split(", ")
    counts = {name: int(count) for count, name in (outcome.split() for outcome in outcomes)}
    assert images * sum(counts.values()) == pytest.approx(sent * 2, abs=0.2)
    assert set(counts) <= {"scored", "late", "UNAVAILABLE", "CANCELLED"}
    assert counts["scored"] > 0
    assert re.search(r"goodput +[\d.]+ images/s scored in time: \d+% of the capacity", done.stdout)
    assert re.search(r"recovery +([\d.]+ s until fast again|not seen)", done.stdout)
    assert "memory" not in done.stdout  # of a server that ran already


def test_it_fails_past_its_limits(server):
    options = ["--url", server.grpc_url, "--times", "2", "--seconds", "1", "--images", str(EXAMPLE)]
    limits = ["--min-goodput", "99", "--max-recovery-s", "0", "--max-refused-p95-ms", "60000"]
    done = CliRunner().invoke(main, ["overload", *options, *limits])
    assert done.exit_code == 1, done.output
    assert re.search(r"FAILED +goodput: \d+% is less than 9900%", done.stdout)
    assert re.search(r"FAILED +recovery: .*, and at most 0 s is allowed", done.stdout)
    assert "refusals" not in done.stdout


def test_what_is_started_inherits_the_cores():
    before = os.sched_getaffinity(0)
    with on_cores([min(before)]):
        code = "import os; print(os.sched_getaffinity(0))"
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert seen.stdout.decode().strip() == str({min(before)})
    assert os.sched_getaffinity(0) == before
