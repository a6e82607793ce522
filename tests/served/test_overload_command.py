"""The command that overloads a server: every number is there and they add up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from load.bench import main
from load.overload import on_cores

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "coffee_pristine.jpg"


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 3])
def test_the_outcomes_add_up(server, images):
    options = ["--url", server.grpc_url, "--times", "2", "--seconds", "1", "--images", str(EXAMPLE)]
    options += ["--images-per-request", str(images)]
    done = CliRunner().invoke(main, ["overload", *options])
    assert done.exit_code == 0, done.output
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
def test_it_fails_past_its_limits(server):
    options = ["--url", server.grpc_url, "--times", "2", "--seconds", "1", "--images", str(EXAMPLE)]
    limits = ["--min-goodput", "99", "--max-recovery-s", "-1", "--max-refused-p95-ms", "60000"]
    done = CliRunner().invoke(main, ["overload", *options, *limits])
    assert done.exit_code == 1, done.output
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
