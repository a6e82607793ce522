"""A burst far beyond what the server can do: what is refused, how, and what still works."""

import math
import time
from collections import Counter
from pathlib import Path

import pytest

from load.generator import Target, measure, send_at_rate
from support.pictures import encoded, noise
from support.triton_requests import images_computed

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.jpg"))
FILES = [path.read_bytes() for path in EXAMPLES]
pytestmark = pytest.mark.quiet


@pytest.fixture
def target(server):
    with Target(server.grpc_url) as target:
        yield target


def test_what_is_too_much_is_refused_before_the_networks_and_the_rest_is_scored(server, target):
    capacity = max(measure(target, FILES, 32, 2.0).images_per_s for _ in range(2))
    before = images_computed(server, "mplug_owl2")
    answers = send_at_rate(target, FILES, 8 * capacity, seconds=4.0, deadline_s=60.0)
    scored = [answer for answer in answers if answer.status is None]
    refused = [answer for answer in answers if answer.status == "UNAVAILABLE"]
    assert len(scored) + len(refused) == len(answers)
    assert len(scored) >= 3 * 32  # this many may always wait
    assert len(refused) > len(answers) / 4
    expected = before + len(scored)  # nothing refused was computed
    assert images_computed(server, "mplug_owl2", at_least=expected) == expected
    assert target.infer(target.requests(FILES)[0]).scores


def test_where_decoding_is_slow_too_much_is_refused_before_it_is_decoded(target):
    files = [encoded(noise(0, 1024, 1024), compress_level=1)]
    capacity = measure(target, files, 8, 3.0).images_per_s
    answers = send_at_rate(target, files, 6 * capacity, seconds=4.0, deadline_s=10.0)
    outcomes = Counter(answer.status or "scored" for answer in answers)
    assert outcomes["UNAVAILABLE"] > len(answers) / 4, outcomes
    assert outcomes["scored"] >= capacity * 4 / 2, outcomes
    assert set(outcomes) <= {"scored", "UNAVAILABLE", "CANCELLED"}


def test_a_usual_number_of_requests_is_never_refused(target):
    assert measure(target, FILES, 64, 1.0).images > 0  # raises at the first refusal


def test_a_burst_that_fits_is_taken_after_quiet_traffic(target):
    for _ in range(5):
        capacity = measure(target, FILES, 32, 2.0).images_per_s
        time.sleep(2.5)  # what was just learned is forgotten
        quiet = send_at_rate(target, FILES, capacity / 8, seconds=4.0, deadline_s=5.0)
        burst = send_at_rate(target, FILES, 10 * capacity, seconds=0.15, deadline_s=5.0)
        ends = [answer.end_s for answer in burst if answer.status is None]
        took_s = max(ends, default=math.inf) - min(answer.sent_s for answer in burst)
        if len(ends) / took_s > 0.7 * capacity:  # else another program had the cores meanwhile
            break
    outcomes = Counter(answer.status or "scored" for answer in quiet + burst)
    assert len(burst) > capacity
    assert set(outcomes) == {"scored"}, outcomes
