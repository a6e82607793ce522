"""The statistics of `compare`: how often they are wrong, and what they find."""

import numpy as np
import pytest

from ma_agiqa_client.cli._difference import Difference, Pair, bootstrap, sequence

CLUSTERS, EACH = 60, 4


def differences(rng: np.random.Generator, shift: float = 0.0, clusters: int = CLUSTERS):
    """Differences that are alike within a prompt: deviation 0.5 between prompts, 0.3 within."""
    return (
        shift
        + 0.5 * rng.standard_normal((clusters, 1))
        + 0.3 * rng.standard_normal((clusters, EACH))
    )


def pairs(values: np.ndarray) -> list[Pair]:
    return [
        Pair(f"{prompt}/{index}", str(prompt), "a", "b", 2.5, 2.5 + value)
        for prompt, row in enumerate(values)
        for index, value in enumerate(row)
    ]


def test_two_halves_of_one_set_differ_in_5_percent_of_trials():
    """Of 1,000 trials at 5 %: 50 +- 7 (one sigma)."""
    rng = np.random.default_rng(1)
    rejected = 0
    for trial in range(1000):
        values = differences(rng)
        sums, counts = values.sum(1), np.full(CLUSTERS, float(EACH))
        _, low, high = bootstrap(sums, counts, seed=trial, resamples=200)
        rejected += low > 0 or high < 0
    assert 30 <= rejected <= 70


def test_pairs_of_a_prompt_are_not_taken_for_independent():
    """A mean of 240 pairs of 60 prompts is about as certain as one of 60: 0.53 / sqrt(60)."""
    values = differences(np.random.default_rng(2))
    found = Difference.of(pairs(values))
    assert (found.pairs, found.clusters) == (240, 60)
    assert (found.high - found.low) / 2 == pytest.approx(2 * 0.53 / 60**0.5, rel=0.25)
    alone = [Pair(p.name, p.name, p.base, p.candidate, 2.5, p.candidate_mos) for p in pairs(values)]
    naive = Difference.of(alone)
    assert naive.high - naive.low < 0.65 * (found.high - found.low)


def test_a_sequence_may_be_looked_at_after_every_prompt():
    """Of 300 runs without a difference, looked at 30 times each, at most 5 % (+ 3 sigma) err."""
    rng = np.random.default_rng(3)
    wrong = looked_once = 0
    for _ in range(300):
        values = rng.standard_normal(1000)
        counts = range(30, 1001, 32)
        looks = [sequence(values[:count]) for count in counts]
        wrong += any(low > 0 or high < 0 for _, low, high in looks)
        plain = [abs(values[:n].mean()) > 1.96 * values[:n].std() / n**0.5 for n in counts]
        looked_once += any(plain)
    assert wrong <= 300 * (0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5)
    assert looked_once > 300 * 0.15  # what looking again does to an interval for one look


def test_a_sequence_ends_in_a_decision():
    values = np.random.default_rng(4).standard_normal(2000)
    _, low, high = sequence(values - 0.5)
    assert -0.65 < low < high < -0.35
    assert sequence(values[:29])[1:] == (-np.inf, np.inf)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(-0.5, "worse"), (0.0, "not worse"), (-0.2, "undecided"), (0.5, "not worse")],
)
def test_what_is_clear_is_found(shift, verdict):
    """With 60 prompts the mean is certain to 0.14 (two sigma)."""
    values = differences(np.random.default_rng(5), shift)
    values += shift - values.mean()  # so that no luck is involved
    found = Difference.of(pairs(values))
    assert found.mean == pytest.approx(shift)
    assert found.verdict(margin=0.2) == verdict


@pytest.mark.parametrize("losses", [[-2.0, -2.0], [-3.0]])
def test_a_few_large_losses_among_equal_pairs_decide_nothing(losses):
    """How many more such losses there are among other pairs is hardly known."""
    values = np.zeros((100 if len(losses) > 1 else 40, 1))
    values[: len(losses), 0] = losses
    found = Difference.of(pairs(values))
    assert found.low < -0.1
    assert found.verdict(0.1) == "undecided"
    assert sequence(np.zeros(40))[1:] == (-np.inf, np.inf)


def test_differences_that_are_nearly_all_equal_have_an_interval_of_their_size():
    values = np.full((20, 1), -0.1)
    values[0] = -1.0
    found = Difference.of(pairs(values))
    assert found.low == -np.inf or -2 < found.low < -0.1
    assert -0.145 < found.high < -0.09


def test_few_prompts_decide_nothing():
    values = differences(np.random.default_rng(6), -3.0, clusters=4)
    found = Difference.of(pairs(values))
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert found.verdict(0.1) == "undecided"


def test_equal_pictures_are_not_worse_without_any_margin():
    found = Difference.of(pairs(np.zeros((10, 3))))
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert (found.wins, found.losses) == (0, 0)
    assert found.verdict(0.0) == "not worse"
